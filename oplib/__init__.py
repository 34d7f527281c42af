"""What an operation is: op kinds, ops, and the op list. Needs neither torch nor transformers."""

__version__ = "0.1.0"
