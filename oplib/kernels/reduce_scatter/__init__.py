"""The sum over GPUs, of which each gets a part.

Inputs: those of `oplib.kernels.collective.collective_inputs`.
"""

from __future__ import annotations

from oplib.kernels.collective import collective_inputs as inputs

__all__ = ["EXAMPLES", "inputs"]

EXAMPLES = (({"num_gpus": 2, "dtype": "bfloat16"}, {"bytes": 1004}),)
