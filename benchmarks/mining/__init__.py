"""What mining costs and what it is worth; see ``python -m benchmarks.mining --help``."""
