"""Runnable implementations of op kinds: one folder per slot, one file per variant. Everything here needs torch.

A slot has the name of its op kind. Its `__init__.py` makes the inputs that all its variants take, and its variant
`eager` is the reference that the others are checked against. `oplib.kernels.registry` finds both by their files.
"""
