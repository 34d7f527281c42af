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
UNSEEN = "its arguments are those of its published source (0.6.9), not run so far"
_WORKSPACE = 128 << 20  # bytes, what its documentation recommends


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
