"""Machine code in this process: linking, memory, calling."""
