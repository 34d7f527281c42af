"""Storage dtypes and quantisation modes: how many bytes a number takes and at which peak rate it multiplies.

A quantisation mode is what one matrix product does with its weight and its activation. `weight_bytes` counts the
weight as it lies in memory, packing and scales included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from oplib.errors import InvalidInputError

ScaleRule = Literal["none", "tensor", "row", "block", "group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantMode:
    """One way to store and multiply.

    `compute_dtype` names the peak rate that applies. `output_bits` is the width of the result. Scales: one of
    `scale_bytes` per tensor, per output row, per `group` x `group` block, or per `group` elements of a row;
    `zero_bits` more per group where zero points are stored; `tensor_scale_bytes` once per tensor on top. `nearest` is
    the mode that takes over where a GPU cannot multiply in this one.
    """

    name: str
    weight_bits: int
    activation_bits: int
    output_bits: int
    compute_dtype: str
    scales: ScaleRule = "none"
    scale_bytes: int = 0
    group: int = 0
    zero_bits: int = 0
    tensor_scale_bytes: int = 0
    nearest: str = ""
    doc: str


def _plain(name: str, bits: int) -> QuantMode:
    return QuantMode(
        name=name,
        weight_bits=bits,
        activation_bits=bits,
        output_bits=bits,
        compute_dtype=name,
        doc="not quantised",
    )


# Layouts: fp8_block is DeepSeek-V3 (arXiv:2412.19437v2, 3.3.2); nvfp4 is Transformer Engine 2.x "NVFP4" and
# Model Optimizer checkpoints; mxfp4 is OCP Microscaling Formats v1.0, 5.3; int4_wo is AutoGPTQ and AutoAWQ;
# int8 and int8_wo are LLM.int8() (arXiv:2208.07339v2) row scales.
QUANT_MODES: dict[str, QuantMode] = {
    mode.name: mode
    for mode in (
        _plain("float32", 32),
        _plain("bfloat16", 16),
        _plain("float16", 16),
        QuantMode(
            name="fp8",
            weight_bits=8,
            activation_bits=8,
            output_bits=16,
            compute_dtype="fp8",
            scales="tensor",
            scale_bytes=4,
            nearest="fp8_wo",
            doc="fp8 weight and activation, one float32 scale per weight tensor",
        ),
        QuantMode(
            name="fp8_block",
            weight_bits=8,
            activation_bits=8,
            output_bits=16,
            compute_dtype="fp8",
            scales="block",
            scale_bytes=4,
            group=128,
            nearest="fp8",
            doc="fp8 weight and activation, one float32 scale per 128 x 128 weight block",
        ),
        QuantMode(
            name="fp8_wo",
            weight_bits=8,
            activation_bits=16,
            output_bits=16,
            compute_dtype="bfloat16",
            scales="tensor",
            scale_bytes=4,
            doc="fp8 weight, 16-bit activation and product, one float32 scale per tensor",
        ),
        QuantMode(
            name="nvfp4",
            weight_bits=4,
            activation_bits=4,
            output_bits=16,
            compute_dtype="nvfp4",
            scales="group",
            scale_bytes=1,
            group=16,
            tensor_scale_bytes=4,
            nearest="fp8",
            doc="fp4 weight and activation, one fp8 scale per 16 and one float32 per tensor",
        ),
        QuantMode(
            name="mxfp4",
            weight_bits=4,
            activation_bits=16,
            output_bits=16,
            compute_dtype="bfloat16",
            scales="group",
            scale_bytes=1,
            group=32,
            doc="fp4 weight with one exponent byte per 32, 16-bit activation and product",
        ),
        QuantMode(
            name="w4a8_mxfp4",
            weight_bits=4,
            activation_bits=8,
            output_bits=16,
            compute_dtype="fp8",
            scales="group",
            scale_bytes=1,
            group=32,
            nearest="mxfp4",
            doc="fp4 weight with one exponent byte per 32, fp8 activation and product",
        ),
        QuantMode(
            name="int8",
            weight_bits=8,
            activation_bits=8,
            output_bits=16,
            compute_dtype="int8",
            scales="row",
            scale_bytes=4,
            nearest="int8_wo",
            doc="int8 weight and activation, one float32 scale per output row",
        ),
        QuantMode(
            name="int8_wo",
            weight_bits=8,
            activation_bits=16,
            output_bits=16,
            compute_dtype="bfloat16",
            scales="row",
            scale_bytes=4,
            doc="int8 weight, 16-bit activation and product, one float32 scale per output row",
        ),
        QuantMode(
            name="int4_wo",
            weight_bits=4,
            activation_bits=16,
            output_bits=16,
            compute_dtype="bfloat16",
            scales="group",
            scale_bytes=2,
            group=128,
            zero_bits=4,
            doc="int4 weight (AWQ, GPTQ), one float16 scale and one 4-bit zero per 128 of a row",
        ),
    )
}

STORAGE_BITS: dict[str, int] = {
    "float64": 64,
    "float32": 32,
    "bfloat16": 16,
    "float16": 16,
    "fp8": 8,
    "int64": 64,
    "int32": 32,
    "int16": 16,
    "int8": 8,
    "uint8": 8,
    "bool": 8,
}

FLOAT_DTYPES = ("float32", "bfloat16", "float16", "fp8")


def quant_mode(name: str) -> QuantMode:
    """The mode of this name."""
    if name not in QUANT_MODES:
        raise InvalidInputError(
            f"Unknown quantisation mode {name!r}.", f"Known: {', '.join(QUANT_MODES)}."
        )
    return QUANT_MODES[name]


def storage_bytes(name: str) -> int:
    """Bytes of one element of a storage dtype."""
    if name not in STORAGE_BITS:
        raise InvalidInputError(f"Unknown dtype {name!r}.", f"Known: {', '.join(STORAGE_BITS)}.")
    return STORAGE_BITS[name] // 8


def weight_bytes(quant_mode_name: str, n: int, k: int, group_size: int | None = None) -> int:
    """Bytes of an n x k weight (n output rows of k) in memory, scales included, exact.

    `group_size` replaces the mode's own block or group length. Activation scales are not part of it.
    """
    mode = quant_mode(quant_mode_name)
    group = group_size or mode.group
    data = _packed(n * k, mode.weight_bits)
    match mode.scales:
        case "none":
            return data
        case "tensor":
            return data + mode.scale_bytes
        case "row":
            return data + n * mode.scale_bytes
        case "block":
            return data + -(-n // group) * -(-k // group) * mode.scale_bytes
        case "group":
            groups = n * -(-k // group)
            zeros = _packed(groups, mode.zero_bits)
            return data + groups * mode.scale_bytes + zeros + mode.tensor_scale_bytes


def _packed(elements: int, bits: int) -> int:
    return -(-elements * bits // 8)
