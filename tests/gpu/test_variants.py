"""Every variant on a GPU: right on its slot's examples, and timed in a CUDA graph. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from oplib.kernels.check import check
from oplib.kernels.hardware import hardware
from oplib.kernels.registry import slots
from oplib.kernels.variant import Variant

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
CASES = [
    (variant, example)
    for one in slots().values()
    for variant in one.variants.values()
    for example in range(len(one.examples))
]


@pytest.mark.parametrize(("variant", "example"), CASES, ids=str)
def test_variants_are_right(variant: Variant, example: int) -> None:
    """Against the reference in float64; a variant that cannot run says why."""
    params, dims = slots()[variant.slot].examples[example]
    if reason := variant.why_not(hardware("cuda"), params, dims):
        pytest.skip(reason)
    found = check(variant, params, dims, device="cuda", seed=1)
    assert found.ok, found


@pytest.mark.parametrize("slot", sorted(slots()))
def test_one_case_of_each_slot_is_captured(slot: str) -> None:
    """The variant that is taken unasked runs in a graph, and no faster than a kernel can start."""
    from collector.bench import bench_of
    from collector.timing import Limits, benchmark_with_power
    from oplib.kernels.registry import resolve
    from oplib.kernels.source import PoolSource

    bench = bench_of("cuda")
    params, dims = slots()[slot].examples[0]
    variant = resolve(slot, device=bench.hardware, params=params, dims=dims)
    source = PoolSource("cuda", 0)
    found = benchmark_with_power(
        lambda sets: variant.make(params, dims, source, sets), bench, Limits()
    )
    assert found.graph == variant.capturable
    assert 0.0005 < found.latency < 100
