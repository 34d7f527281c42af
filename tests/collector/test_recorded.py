"""Experts alone run on the tokens and the choices that they got in the model."""

from __future__ import annotations

import pytest
import torch

from collector.align import running
from collector.align.aligning import align, parts_of
from collector.align.alone import Standalone
from collector.align.binding import bound
from collector.align.settings import Settings
from collector.align.workloads import Workload
from oplib.case import Case
from oplib.kernels.binding import Recorded
from oplib.kernels.registry import slot
from oplib.kernels.source import PoolSource
from perfdb.database import PerfDatabase
from tests.tracer import small_models

WORKLOAD = Workload(b=5, s=1, p=23)
GROUPED = {"moe": slot("moe").variants["grouped_mm"]}


def widen(config) -> None:
    """Grouped products take sizes in multiples of 8."""
    for name in ("moe_intermediate_size", "intermediate_size"):
        if hasattr(config, name):
            setattr(config, name, 40)


def part(model: str):
    parts = parts_of(small_models.folder(model), configure=widen)
    return next(p for p in parts if p.role == "moe")


def case_of(found, phase: str) -> Case:
    op = next(op for op in found.ops(phase, "torch") if op.op == "moe")
    dims = {name: int(size) for name, size in op.dims_at(**WORKLOAD.sizes).items()}
    return Case(op="moe", params=dict(op.params), dims=dims)


@pytest.mark.parametrize("model", ["qwen3_moe", "deepseek_v3", "mixtral_fp8"])
def test_choices_are_those_of_the_models_router(model):
    """The op at the recorded inputs and the model's weights gives what the model's experts gave, up to a factor."""
    found = part(model)
    recorded = Recorded()
    outputs: list[torch.Tensor] = []
    with bound(found.source.traced.model, GROUPED, recorded=recorded) as names:
        how = {"attn_implementation": "eager", "experts_implementation": names.experts}
        module = found.build("cpu", **how)
        experts = next(
            m for m in module.modules() if hasattr(m, "down_proj") and hasattr(m, "has_gate")
        )
        experts.register_forward_hook(lambda _m, _a, out: outputs.append(out))
        found.inputs("generation", *WORKLOAD.sizes.values(), "cpu", **how).run(module)
    case = case_of(found, "generation")
    given = recorded.of("moe", case.params, case.dims)
    assert given is not None
    weights = {"up": experts.gate_up_proj, "down": experts.down_proj}
    call = GROUPED["moe"].make(
        case.params, case.dims, PoolSource("cpu", 0), 2, given=given | weights
    )
    one, other = (run()[0].double() for run in call.runs)
    assert torch.equal(one, other)
    expected = outputs[0].double()
    factors = (expected * one).sum(-1) / one.square().sum(-1)
    torch.testing.assert_close(
        one * factors[:, None], expected, rtol=0.03, atol=0.03 * float(expected.std())
    )
    assert recorded.of("moe", case.params, {"m": 4}) is None
    assert recorded.of("moe", {**case.params, "top_k": 1}, case.dims) is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_a_row_uses_what_its_part_recorded(monkeypatch):
    """Nothing is noted by calls that come after, which may be captured; the log's row is the one on random inputs."""
    seen = []
    measured = Standalone._timed

    def timed(self, variant, case, given=None):
        if case.op == "moe":
            seen.append(given)
        return measured(self, variant, case, given)

    monkeypatch.setattr(Standalone, "_timed", timed)
    monkeypatch.setattr(running, "BACKENDS", {})
    standalone = Standalone("cpu", "", None, seconds=0.01)
    variants = {"moe": "grouped_mm"}
    settings = Settings(model="m", device="cpu", variants=variants, seconds=0.01)
    db = PerfDatabase.load(system="h100_sxm", backend="torch")
    found = part("qwen3_moe")
    for turn in (1, 2):
        row = align(found, "generation", WORKLOAD, settings, standalone, db)
        assert row.failed == ""
        assert "graph break" not in row.note
        assert [given is None for given in seen] == [True] + [False] * turn
        assert next(op.standalone for op in row.ops if op.op == "moe") > 0
    assert set(seen[-1]) == {"x", "logits"}
    assert not standalone.recorded.open
