"""Latent attention as separate operators."""

from __future__ import annotations

from oplib.kernels.latent import EagerLatent


class Eager(EagerLatent):
    """Separate operators in both forms: every score is written to memory."""
