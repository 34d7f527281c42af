"""scaled_dot_product_attention on the memory-efficient backend."""

from __future__ import annotations

from torch.nn.attention import SDPBackend

from oplib.kernels.latent import SdpaLatent


class SdpaEfficient(SdpaLatent):
    """torch's scaled_dot_product_attention with the memory-efficient backend; knows both forms."""

    backends = (SDPBackend.EFFICIENT_ATTENTION,)
    preference = 10
