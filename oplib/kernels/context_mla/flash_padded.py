"""FlashAttention 2 of torch over padded values."""

from __future__ import annotations

from oplib.kernels import latent


class FlashPadded(latent.FlashPadded):
    """FlashAttention 2 as torch ships it; values are padded to the size of keys, which is timed."""

    preference = 15
