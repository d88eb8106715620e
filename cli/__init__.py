"""The operator's door: ``closeloop``."""
