"""The methods of the literature, each against its baselines at equal encoded items; see ``--help``."""
