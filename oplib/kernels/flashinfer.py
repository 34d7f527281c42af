"""What the FlashInfer variants share: pages, and the workspace that its kernels split work in."""

from __future__ import annotations

from functools import cache

import torch

from oplib.kernels.variant import Needs

PAGE = 16  # tokens of a page, as serving engines set it
NEEDS = Needs(
    device_types=("cuda",),
    capability=(8, 0),
    dtypes=("bfloat16", "float16"),
    packages=("flashinfer",),
)
BUILD_SECONDS = 600.0  # 41 s for a size of heads on 16 cores, 160 s beside three others
_HEADS = (64, 128, 256)  # sizes that its templates are written for on each architecture
_WORKSPACE = 128 << 20  # bytes, what its documentation recommends


def head_refused(size: int, value: int) -> str | None:
    """Why heads of this size are not taken: the kernels are templates, valid for a few sizes."""
    if size == value and size in _HEADS:
        return None
    return f"takes heads of {', '.join(map(str, _HEADS))}, keys as values, not {size} and {value}"


@cache
def workspace(device: torch.device) -> torch.Tensor:
    """Memory for partial results, one for all calls of a device: they run one after the other."""
    return torch.zeros(_WORKSPACE, dtype=torch.uint8, device=device)


def paged(tokens: torch.Tensor) -> torch.Tensor:
    """[b, t, ...] as pages [b * pages, PAGE, ...]; the last page of a sequence is filled up with zeros."""
    b, t = tokens.shape[:2]
    pages = -(-t // PAGE)
    padded = tokens.new_zeros((b, pages * PAGE, *tokens.shape[2:]))
    padded[:, :t] = tokens
    return padded.view(b * pages, PAGE, *tokens.shape[2:])


def starts(count: int, step: int, device: torch.device | str) -> torch.Tensor:
    """0, step, 2·step, ... up to count·step, as int32: where each sequence begins."""
    return torch.arange(0, (count + 1) * step, step, dtype=torch.int32, device=device)[: count + 1]
