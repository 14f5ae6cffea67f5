"""ranker: the organizers' side of a machine-learning challenge for audio encoders."""

__version__ = "0.1.0"
