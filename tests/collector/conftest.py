"""What a test changes for its whole process is put back after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from oplib.kernels.registry import slots


@pytest.fixture(autouse=True)
def torch_settings() -> Iterator[None]:
    """What a worker sets."""
    gradients, threads = torch.is_grad_enabled(), torch.get_num_threads()
    yield
    torch.set_grad_enabled(gradients)
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def own_kernels() -> Iterator[None]:
    """Variants that a plugin adds."""
    before = {name: dict(one.variants) for name, one in slots().items()}
    yield
    for name, one in slots().items():
        one.variants.clear()
        one.variants.update(before[name])
