"""Tilewright against whatever peers are installed: `python -m benchmarks.suite --help`."""
