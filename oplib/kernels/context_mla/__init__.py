"""Latent attention of many new tokens.

Inputs: those of `oplib.kernels.latent.latent_inputs`.
"""

from __future__ import annotations

from oplib.kernels.latent import latent_inputs as inputs

__all__ = ["inputs"]
