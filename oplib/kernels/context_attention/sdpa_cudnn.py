"""scaled_dot_product_attention on cuDNN."""

from __future__ import annotations

from torch.nn.attention import SDPBackend

from oplib.kernels import attention
from oplib.kernels.variant import Sizes
from oplib.params import Params


class SdpaCudnn(attention.Sdpa):
    """torch's scaled_dot_product_attention with the cuDNN backend.

    It gets windows and cached keys as a mask over all pairs; FlashAttention knows them and goes before it there.
    """

    backend = SDPBackend.CUDNN_ATTENTION
    largest_head = 256
    preference = 20

    def rank(self, params: Params, dims: Sizes) -> int:
        behind = attention.Flash.preference - 1
        return behind if dims and attention.masked(params, dims) else self.preference
