"""Loops to text: LLVM IR and C, and the functions of analysis as machine operations."""
