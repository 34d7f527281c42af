"""The collective of torch.distributed."""

from __future__ import annotations

import torch
from torch import distributed

from oplib.kernels.collective import Grouped, parts
from oplib.kernels.variant import Inputs, Outputs, Sizes
from oplib.params import Params


class Group(Grouped):
    """torch.distributed.all_to_all_single: NCCL between GPUs."""

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        distributed.all_to_all_single(inputs["out"], inputs["x"])
        return (inputs["out"],)

    def prepare(self, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
        cut = parts(inputs["x"], inputs["num_gpus"]).flatten()
        return {"x": cut.clone(), "out": torch.empty_like(cut)}
