"""minisw: stepwise generative judges on one consumer GPU."""

__version__ = "0.1.0"
