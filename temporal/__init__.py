"""Reading as a sequence of decisions, each with a price."""

__version__ = "0.1.0"
