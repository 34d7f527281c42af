"""Attention as separate operators."""

from __future__ import annotations

from oplib.kernels.attention import EagerAttention


class Eager(EagerAttention):
    """Separate operators: every score is written to memory; knows windows, chunks, soft cap and sinks."""
