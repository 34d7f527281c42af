"""Attention of the newest token over its cache.

Inputs: those of `oplib.kernels.attention.attention_inputs`.
"""

from __future__ import annotations

from oplib.kernels.attention import attention_inputs as inputs

__all__ = ["inputs"]
