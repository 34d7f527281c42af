"""align-model on CPU tensors: binding, the cache in fixed memory, rows, resume, misuse. No ../shared, no GPU."""

from __future__ import annotations

import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch

from collector.align import cli
from collector.align.aligning import align, chosen_parts, distinct, parts_of, predicted
from collector.align.alone import Standalone
from collector.align.binding import NAME, bound
from collector.align.fixed_cache import another, cache_bytes, prepare
from collector.align.kernels import Kernel, attribute, compare
from collector.align.outcome import OpOutcome, Outcome
from collector.align.page import render_page
from collector.align.rested import RestedBench, steady, under_load
from collector.align.workloads import Workload, chosen_phases, parse_workload
from collector.timing import Limits
from oplib.case import Case
from oplib.errors import InvalidInputError
from oplib.kernels.bound_attention import Preferred
from oplib.kernels.registry import slot
from perfdb.database import PerfDatabase
from tests.tracer import small_models
from tracer.tensors import tensors

CONTEXT, FURTHER, STEP = Workload(b=2, s=19), Workload(b=2, s=5, p=9), Workload(b=3, s=1, p=23)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def part(model: str, role: str, place: int = 0):
    return [p for p in parts_of(small_models.folder(model)) if p.role == role][place]


def eager(*names: str):
    return {name: slot(name).reference for name in names}


def both_ways(found, phase: str, workload: Workload, own: str, slots) -> tuple[list, list]:
    """What a part returns as transformers runs it, and with its slots bound, over a cache in fixed memory; float32."""
    dtype = torch.float32
    sizes = tuple(workload.sizes.values())
    module = found.build("cpu", dtype=dtype, attn_implementation=own)
    plain = found.inputs(phase, *sizes, "cpu", dtype=dtype, attn_implementation=own).run(module)
    with bound(found.source.traced.model, slots) as names:
        how = {"attn_implementation": names.attention, "experts_implementation": names.experts}
        module = found.build("cpu", dtype=dtype, **how)
        call = found.inputs(phase, *sizes, "cpu", dtype=dtype, **how)
        returned, _ = prepare(call, module)
    return list(tensors(plain)), list(tensors(returned))


@pytest.mark.parametrize(
    ("model", "role", "own", "slots"),
    [
        ("llama", "attention", "sdpa", ("context_attention", "generation_attention")),
        ("gemma3", "attention", "sdpa", ("context_attention", "generation_attention")),
        ("gpt_oss", "attention", "eager", ("context_attention", "generation_attention")),
        ("gemma2", "attention", "eager", ("context_attention", "generation_attention")),
        ("deepseek_v3", "attention", "sdpa", ("context_mla", "generation_mla")),
        ("mamba2", "mixer", "eager", ("causal_conv1d", "mamba2")),
        ("qwen3_next", "mixer", "eager", ("causal_conv1d", "gated_delta_rule")),
    ],
)
@pytest.mark.parametrize(("phase", "workload"), [("context", CONTEXT), ("generation", STEP)])
def test_a_bound_slot_computes_what_the_model_computes(model, role, own, slots, phase, workload):
    """Windows, sinks, soft caps, latents, scales and states included; both in float32."""
    found = part(model, role)
    plain, inside = both_ways(found, phase, workload, own, eager(*slots))
    torch.testing.assert_close(plain[0], inside[0], rtol=2e-4, atol=2e-5)  # scores may follow


@pytest.mark.parametrize("workload", [Workload(b=2, s=1, p=21), Workload(b=2, s=4, p=9)])
def test_chunks_over_fewer_cached_keys_than_a_chunk(workload):
    """All that there ever was is at hand: the slot knows where the chunk begins."""
    found = part("llama4", "attention")
    slots = eager("context_attention", "generation_attention")
    phase = "generation" if workload.s == 1 else "context"
    plain, inside = both_ways(found, phase, workload, "sdpa", slots)
    torch.testing.assert_close(plain[0], inside[0], rtol=2e-4, atol=2e-5)


def test_attention_may_be_chosen_call_by_call():
    slots = {name: Preferred(name) for name in ("context_attention", "generation_attention")}
    plain, inside = both_ways(part("gemma3", "attention"), "context", CONTEXT, "sdpa", slots)
    torch.testing.assert_close(plain[0], inside[0], rtol=2e-4, atol=2e-5)


def test_functions_are_the_models_own_again_afterwards():
    """A binding leaves nothing behind."""
    found = part("mamba2", "mixer")
    modules = [sys.modules[type(m).__module__] for m in found.source.traced.model.modules()]
    before = [dict(vars(m)) for m in modules]
    with bound(found.source.traced.model, eager("causal_conv1d", "mamba2")):
        assert any(dict(vars(m)) != old for m, old in zip(modules, before, strict=True))
    assert [dict(vars(m)) for m in modules] == before


def test_the_cache_is_written_behind_its_tokens():
    """The cached tokens stay, in the same memory for every call; another call has a cache of its own."""
    found = part("llama", "attention")
    with bound(found.source.traced.model, eager("generation_attention")) as names:
        module = found.build("cpu", attn_implementation=names.attention)
        call = found.inputs("generation", 3, 1, 23, "cpu", attn_implementation=names.attention)
        old = call.cache.layers[0].keys.clone()
        prepare(call, module)
        keys, _ = call.cache.layers[0].fixed
        assert keys.shape[2] == 24
        assert torch.equal(keys[:, :, :23], old)
        written = keys[:, :, 23:].clone()
        keys[:, :, 23:].zero_()
        second = another(call)
        second.run(module)
        assert keys[:, :, 23:].abs().sum() == 0
        call.run(module)
        assert torch.equal(keys[:, :, 23:], written)
        assert call.cache.layers[0].fixed[0] is keys
    assert cache_bytes(call) == 2 * 3 * 2 * 24 * 10 * 2


def test_states_come_back():
    """A step moves the states on; what compares two calls can bring them back."""
    found = part("mamba2", "mixer")
    with bound(found.source.traced.model, eager("causal_conv1d", "mamba2")) as names:
        module = found.build("cpu", attn_implementation=names.attention)
        call = found.inputs("generation", 3, 1, 23, "cpu", attn_implementation=names.attention)
        first, restore = prepare(call, module)
        call.reset()
        moved = [t.clone() for t in tensors(call.run(module))]
        call.reset()
        moved = [t.clone() for t in tensors(call.run(module))]
        assert not all(torch.equal(a, b) for a, b in zip(tensors(first), moved, strict=True))
        call.reset()
        restore()
        again = list(tensors(call.run(module)))
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), again, strict=True))


def run(capsys, *arguments: str) -> tuple[int, object]:
    status = cli.main([*arguments, "--device", "cpu", "--json"])
    return status, json.loads(capsys.readouterr().out)


FIELDS = {
    "model", "submodule", "phase", "workload", "predicted_ms", "standalone_ms", "measured_ms", "gap", "graph",
    "kernels_match",
}  # fmt: skip


@pytest.mark.slow
def test_rows_and_resume(tmp_path, capsys):
    """Both phases of two roles; a second run in the same folder measures nothing again."""
    arguments = [
        small_models.folder("qwen3"), "--submodule", "self_attn", "mlp", "--workloads", "2x17", "3x1x20",
        "--out", str(tmp_path / "log"), "--html", str(tmp_path / "page.html"),
    ]  # fmt: skip
    status, rows = run(capsys, *arguments)
    assert status == 0
    assert [(r["submodule"], r["phase"]) for r in rows] == [
        (f"model.layers.0.{name}", phase)
        for name in ("self_attn", "mlp")
        for phase in ("context", "generation")
    ]
    for row in rows:
        assert row.keys() >= FIELDS
        assert row["failed"] == ""
        assert row["measured_ms"] > 0
        assert row["difference"] == 0.0
        assert not row["graph"]
        assert row["standalone_ms"] == pytest.approx(sum(op["standalone_ms"] for op in row["ops"]))
        assert row["gap"] == pytest.approx(row["predicted_ms"] / row["measured_ms"] - 1)
    assert "self_attn" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert run(capsys, *arguments) == (0, rows)


@pytest.mark.slow
def test_the_whole_model(capsys):
    """A prompt and a step of three layers; the price is that of price-model on as many."""
    status, rows = run(
        capsys, small_models.folder("llama"), "--whole", "--layers", "3", "--workloads", "2x17", "3x1x20"
    )  # fmt: skip
    assert status == 0
    assert [row["phase"] for row in rows] == ["context", "generation"]
    assert all(
        row["failed"] == "" and row["layers"] == 3 and row["difference"] == 0 for row in rows
    )
    _, deeper = run(
        capsys, small_models.folder("llama"), "--whole", "--layers", "5", "--workloads", "2x17", "--dry-run"
    )  # fmt: skip
    assert rows[0]["predicted_ms"] < deeper[0]["predicted_ms"] < 2 * rows[0]["predicted_ms"]


def test_dry_run_prices_and_runs_nothing(capsys):
    status, rows = run(capsys, small_models.folder("qwen3"), "--dry-run", "--workloads", "1x64")
    assert status == 0
    assert [row["submodule"] for row in rows] == [
        "model.layers.0", "model.layers.0.self_attn", "model.layers.0.mlp",
    ]  # fmt: skip
    assert all(row["predicted_ms"] > 0 and row["measured_ms"] is None for row in rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--workloads", "1x"), "is no workload"),
        (("--workloads", "0x4"), "is no workload"),
        (("--workloads", "1x64", "--phase", "generation"), "None of the workloads"),
        (("--submodule", "nose"), "No sub-module is nose"),
        (("--variant", "gemm"), "It takes slot=name"),
        (("--variant", "gemm=nose"), "has no variant"),
        (("--variant", "nose=eager"), "No kernel for"),
        (("--html", "/nowhere/at/all.html"), "is no folder"),
        (("--system", "toaster"), "toaster"),
        (("--whole", "--layers", "99"), "the model has 5"),
    ],
)
def test_misuse_is_one_line(capsys, arguments, said):
    """Exit status 2, and JSON that says so."""
    status = cli.main([small_models.folder("llama"), "--device", "cpu", "--json", *arguments])
    out, err = capsys.readouterr()
    assert status == 2
    error = json.loads(out)["error"]
    assert said in error["message"] + error["hint"]
    assert err.strip().startswith("align-model:")


def test_a_variant_that_cannot_run_here_is_an_error(capsys):
    """It was asked for: nothing else runs in its place."""
    model = small_models.folder("llama")
    given = ["--device", "cpu", "--json", "--workloads", "1x16", "--submodule", "attention"]
    assert cli.main([model, *given, "--variant", "context_attention=flash"]) == 2
    assert "context_attention=flash cannot run" in capsys.readouterr().out


def test_workloads():
    assert parse_workload("16x1x4096") == Workload(b=16, s=1, p=4096)
    assert str(parse_workload("4x2048")) == "4x2048"
    pairs = chosen_phases("both", [CONTEXT, FURTHER, STEP])
    assert pairs == [("context", CONTEXT), ("context", FURTHER), ("generation", STEP)]


def test_parts_that_do_the_same_count_once():
    """Two kinds of layers of Gemma 3 have one kind of MLP, and attention of two windows."""
    parts = chosen_parts(parts_of(small_models.folder("gemma3")), ["mlp", "self_attn"])
    assert [p.role for p in parts].count("mlp") == 2
    kept = distinct(parts)
    assert [p.role for p in kept].count("mlp") == 1
    assert [p.role for p in kept].count("attention") == 2


@pytest.mark.slow
def test_a_part_that_fails_is_a_row(monkeypatch):
    """The error's words are in it, and its price is."""
    from collector.align.settings import Settings

    monkeypatch.setattr(
        "collector.align.running.start", lambda *_a, **_k: 1 / 0
    )  # what runs a part
    standalone = Standalone("cpu", "", None, seconds=0.01)
    settings = Settings(model="m", device="cpu", variants={}, seconds=0.01)
    db = PerfDatabase.load(system="h100_sxm", backend="torch")
    found = part("llama", "mlp")
    row = align(found, "context", CONTEXT, settings, standalone, db)
    assert "ZeroDivisionError" in row.failed
    assert row.measured is None
    assert row.predicted == predicted(found.ops("context", "torch"), CONTEXT, db)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "role", "workload", "given_up"),
    [
        ("llama4", "attention", "3x1x23", "generation_attention"),
        ("qwen3_next", "mixer", "2x5x9", "causal_conv1d, gated_delta_rule"),
    ],
)
def test_what_a_slot_refuses_runs_as_transformers_has_it(capsys, model, role, workload, given_up):
    """Chunks over cached keys, and a prompt that goes on from a state: the row is there and says so."""
    given = ["--submodule", role, "--workloads", workload]
    status, rows = run(capsys, small_models.folder(model), *given)
    assert status == 0
    told = [row for row in rows if row["note"].startswith(f"{given_up} as transformers has it")]
    assert told
    assert all(row["measured_ms"] > 0 and row["failed"] == "" for row in rows)


def kernels(*names: str) -> tuple[Kernel, ...]:
    return tuple(Kernel(name=name, us=float(place)) for place, name in enumerate(names, 1))


def test_kernels_of_libraries_are_compared_by_name():
    """The compiler's own have names of their own and are counted."""
    alone = kernels("gemm_a", "triton_x", "gemm_b")
    inside = kernels("triton_y", "gemm_b", "gemm_a", "triton_z")
    found = compare(alone, inside)
    assert found.match
    assert found.generated == (1, 2)
    other = compare(alone, kernels("gemm_a", "gemm_c"))
    assert (other.match, other.missing, other.added) == (False, ("gemm_b",), ("gemm_c",))
    assert compare(kernels("Memset (Unknown)"), kernels("Memset (Device)")).match
    assert not compare(kernels("Memset (Unknown)"), kernels("Memcpy HtoD")).match


def test_kernels_go_to_the_ops_that_run_them_alone():
    """Same names in order; the compiler's own in order where their numbers agree, to nobody where they do not."""
    alone = [kernels("gemm"), kernels("triton_1"), kernels("gemm", "reduce")]
    inside = kernels("triton_a", "gemm", "gemm", "reduce")
    claimed, left = attribute(alone, inside)
    assert [[k.us for k in own] for own in claimed] == [[2.0], [1.0], [3.0, 4.0]]
    assert not left
    claimed, left = attribute(alone, (*inside, Kernel(name="triton_b", us=9.0)))
    assert [k.name for k in left] == ["triton_a", "triton_b"]
    both = [kernels("gemm"), kernels("gemm", "triton_1")]
    claimed, left = attribute(both, kernels("gemm", "gemm", "triton_a", "triton_b"))
    assert [[k.name for k in own] for own in claimed] == [["gemm"], []]  # not its product alone
    assert [k.name for k in left] == ["triton_a", "triton_b", "gemm"]


def test_sums_and_gaps():
    """The sum of ops alone is there where all are; a gap is over the measured time, below 10 % is right."""
    ops = [
        OpOutcome(op="gemm", name=str(i), count=1, variant="eager", predicted=1.0, origin="measured",
                  standalone=alone, measured=None)
        for i, alone in enumerate((1.0, 2.0))
    ]  # fmt: skip
    row = Outcome(
        model="m", submodule="s", role="mlp", phase="context", workload="1x1", ops=tuple(ops), predicted=3.4,
        measured=3.0,
    )  # fmt: skip
    assert row.standalone == 3.0
    assert row.gap == pytest.approx(0.4 / 3)
    assert not row.to_json()["ok"]
    assert Outcome(
        model="m", submodule="s", role="mlp", phase="context", workload="1x1", predicted=3.1, measured=3.0,
        ops=(ops[0], OpOutcome(op="x", name="y", count=1, variant="", predicted=None, origin="", standalone=None,
                               measured=None)),
    ).standalone is None  # fmt: skip


class Timed:
    """A bench whose first sample after a pause is slow."""

    overhead_ms = 0.0
    hardware = meter = None

    def __init__(self, ms: float) -> None:
        self.ms, self.calls, self.reasons_to_restart = ms, [], []

    def start(self, _replay, count, *, flush):
        self.calls.append(count)
        return lambda: [self.ms + 1.0, *[self.ms] * (count - 1)]


def test_a_rested_device_is_started_before_its_samples(monkeypatch):
    """A replay that is not counted goes ahead; after enough work the device rests before the next, else it does not."""
    slept = []
    monkeypatch.setattr("collector.align.rested.time.sleep", slept.append)
    slow = Timed(2.0)
    rested = RestedBench(slow)
    for _ in range(2):
        assert rested.sample(None, 3, flush=False, meanwhile=lambda: None) == [2.0] * 3
    assert slow.calls == [4, 4]
    assert slept == pytest.approx([3 * 9.0 / 1e3])
    short = RestedBench(Timed(-0.3))
    for _ in range(2):
        short.start(None, 3, flush=False)()
    assert len(slept) == 1


def test_a_call_is_timed_again_while_its_samples_disagree(monkeypatch):
    """A process beside it disturbs some: the steady timing counts, else the steadiest of a few."""

    def timed(spreads):
        left = iter(spreads)
        monkeypatch.setattr(
            "collector.align.rested.benchmark_with_power",
            lambda *_a: SimpleNamespace(spread=next(left)),
        )
        return steady(None, Timed(1.0), Limits()).spread, list(left)

    assert timed([0.001, 0.3]) == (0.001, [0.3])
    assert timed([0.5, 0.9, 0.01, 0.002]) == (0.01, [0.002])
    assert timed([0.5, 0.3, 0.2, 0.4, 0.002]) == (0.2, [0.002])


def test_a_layer_under_load_gets_all_of_it(monkeypatch):
    """Also right after another, which drew other power."""
    bench, seen = Timed(1.0), []

    def timed(_make, busy, limits):
        seen.append((busy.loaded_at, limits.load_seconds))
        return SimpleNamespace(spread=0.0)

    bench.loaded_at = 5.0
    monkeypatch.setattr("collector.align.rested.benchmark_with_power", timed)
    under_load(None, RestedBench(bench), Limits())
    assert seen == [(-math.inf, 0.3)]


def test_an_op_whose_samples_disagree_has_no_time(monkeypatch):
    monkeypatch.setattr("collector.align.alone.disagreement", lambda *_: "samples disagree")
    case = Case(op="gemm", params={"n": 16, "k": 8, "dtype": "float32"}, dims={"m": 4})
    found = Standalone("cpu", "", None, seconds=0.01).measure(case, None)
    assert found.latency is None
    assert "samples disagree" in found.reason


def test_the_page_escapes(tmp_path):
    """Names of models are text."""
    row = Outcome(
        model="<b>", submodule="s", role="mlp", phase="context", workload="1x1", ops=(), predicted=1.0, measured=1.0
    ).to_json()  # fmt: skip
    page = render_page([row])
    assert "<b></" not in page
    assert "&lt;b&gt;" in page


def test_attention_that_no_slot_is_bound_for_is_refused():
    found = part("llama", "attention")
    with bound(found.source.traced.model, {}) as names:
        assert names.attention == NAME
        module = found.build("cpu", attn_implementation=names.attention)
        call = found.inputs("context", 1, 4, 0, "cpu", attn_implementation=names.attention)
        with pytest.raises(InvalidInputError, match="No attention slot"):
            call.run(module)
