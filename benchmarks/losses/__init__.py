"""All losses that learn from classes, at equal encoded items; see ``python -m benchmarks.losses --help``."""
