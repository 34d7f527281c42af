"""What the communication slots share: a group of processes, one per GPU, and the buffers they exchange.

Each process runs the same case on its own device. Without a group there is one process, for which the reference works:
it computes what process 0 of `num_gpus` would get from inputs that all processes can make from one seed.
"""

from __future__ import annotations

import torch
from torch import distributed

from oplib.kernels.hardware import Hardware
from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Needs, Sizes, Variant
from oplib.params import Params, integer, text


def collective_inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """x[elements]: what this process gives; bytes are those of the message, a multiple of all GPUs' parts."""
    dtype = DTYPES[text(params, "dtype")]
    elements = max(dims["bytes"] // dtype.itemsize, 1)
    return {"x": source.activation((elements,), dtype), "num_gpus": integer(params, "num_gpus")}


class Grouped(Variant):
    """A collective of torch.distributed; a subclass says which. `run` needs an initialised group of `num_gpus`."""

    needs = Needs(
        device_types=("cuda", "cpu"), dtypes=("float32", "bfloat16", "float16", "int8", "fp8")
    )
    preference = 10

    def why_not(
        self, device: Hardware, params: Params | None = None, dims: Sizes | None = None
    ) -> str | None:
        if not distributed.is_available():
            return "needs a torch with torch.distributed"
        return super().why_not(device, params, dims)

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        size = distributed.get_world_size() if distributed.is_initialized() else 1
        wanted = integer(params, "num_gpus")
        return None if size == wanted else f"needs {wanted} processes, one per GPU, not {size}"


def parts(x: torch.Tensor, count: int) -> torch.Tensor:
    """[count, elements / count]: the part of each process; what is left over stays out."""
    size = x.numel() // count
    return x[: size * count].view(count, size)
