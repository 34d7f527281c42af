"""scaled_dot_product_attention on cuDNN."""

from __future__ import annotations

from torch.nn.attention import SDPBackend

from oplib.kernels.latent import SdpaLatent
from oplib.kernels.variant import Sizes
from oplib.params import Params, flag


class SdpaCudnn(SdpaLatent):
    """torch's scaled_dot_product_attention with the cuDNN backend, keys and values of different size."""

    backends = (SDPBackend.CUDNN_ATTENTION,)
    preference = 20

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if flag(params, "absorbed"):
            return "takes heads up to 256, not a latent"
        return super().refuses(params, dims)
