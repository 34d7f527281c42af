"""FlashAttention 2 of torch."""

from __future__ import annotations

from oplib.kernels import attention


class Flash(attention.Flash):
    """FlashAttention 2 as torch ships it, with its own window."""
