"""Prices by hand at the speed of light, and what has to agree with what."""

import numpy
import pytest

from models.pricing import price
from models.workload import Workload, grid
from oplib.errors import InvalidInputError, PerfDataNotAvailableError
from oplib.op import Op
from oplib.oplist import OpList
from perfdb.database import PerfDatabase
from perfdb.systems import load_system

SYSTEM = load_system("h200_sxm")
PEAK, BANDWIDTH = SYSTEM.peak["bfloat16"].base, SYSTEM.memory_bandwidth.base
HEADS = {"num_heads": 8, "num_kv_heads": 2, "head_dim": 64, "v_head_dim": 64}
DTYPES = {"dtype": "bfloat16", "kv_dtype": "bfloat16"}


def op(kind, name, dims, count=1, **params):
    data = {"op": kind, "name": name, "count": count, "params": params, "dims": dims}
    return Op.from_json(data)


LINEAR = {"n": 4096, "k": 4096, "dtype": "bfloat16"}
OPS = OpList(
    lowering="serving",
    phases={
        "context": (
            op("gemm", "proj", {"m": "b*s"}, 3, **LINEAR),
            op("context_attention", "attention", {"b": "b", "s": "s", "p": "p"}, 2, **HEADS, **DTYPES),
        ),
        "generation": (
            op("gemm", "proj", {"m": "b"}, 3, **LINEAR),
            op("generation_attention", "attention", {"b": "b", "s": 1, "p": "p"}, 2, **HEADS, **DTYPES),
        ),
    },
)  # fmt: skip
DB = PerfDatabase.load(system="h200_sxm", mode="sol")


def step_by_hand(b, p):
    """ms of a generation step with p cached tokens.

    The linear layer moves its weight 4096², b rows in and b rows out, 2 bytes each, three times. Attention reads p
    keys and values of 2·(64 + 64) and writes those of the new token next to its query and output, 8·(64 + 64).
    Both are bound by memory at small b.
    """
    linear = 2 * (4096 * 4096 + 2 * b * 4096)
    attention = 2 * b * (p * 256 + 2 * 256 + 1024)
    return (3 * linear + 2 * attention) / BANDWIDTH * 1e3


def test_context_by_hand():
    """TTFT: 3 linear layers on 4·1000 rows, bound by FLOPs, and 2 attentions on causal pairs, the longer side."""
    b, s, p = 4, 1000, 24
    linear = 2 * b * s * 4096 * 4096 / PEAK
    pairs = s * p + s * (s + 1) // 2
    flops = 2 * b * 8 * (64 + 64) * pairs / PEAK
    moved = 2 * b * (s * (1024 + 2 * 256) + p * 256) / BANDWIDTH
    expected = (3 * linear + 2 * max(flops, moved)) * 1e3
    found = price([OPS], DB, Workload(batch=b, isl=s, osl=1, prefix=p))
    assert found.ttft.latency[0] == pytest.approx(expected, rel=1e-12)
    assert found.request.latency[0] == found.ttft.latency[0]
    assert found.tpot.latency[0] == 0.0


def test_generation_by_hand():
    """Step i of osl - 1 finds prefix + isl + i - 1 tokens in the cache; TPOT is the mean of the steps."""
    b, isl, osl, prefix = 4, 100, 6, 20
    found = price([OPS], DB, Workload(batch=b, isl=isl, osl=osl, prefix=prefix))
    steps = [step_by_hand(b, prefix + isl + i - 1) for i in range(1, osl)]
    assert found.tpot.latency[0] == pytest.approx(numpy.mean(steps), rel=1e-12)
    request = found.ttft.latency[0] + sum(steps)
    assert found.request.latency[0] == pytest.approx(request, rel=1e-12)
    rate = found.tokens_per_s_per_gpu(gpus=2, replicas=2)
    assert rate[0] == pytest.approx(2 * b * osl / (request / 1e3) / 2)


@pytest.mark.parametrize("mode", ["sol", "empirical"])
def test_a_sweep_equals_single_runs(mode):
    """Every cell of a grid, and of scattered workloads, is what a run of its own gives."""
    db = PerfDatabase.load(system="h200_sxm", mode=mode)
    sizes = {"batch": (1, 7, 64), "isl": (1, 100), "osl": (1, 2, 33), "prefix": (0, 50)}
    sweep = price([OPS], db, grid(**sizes))
    for place in numpy.ndindex(3, 2, 3, 2):
        one = {name: values[i] for (name, values), i in zip(sizes.items(), place, strict=True)}
        alone = price([OPS], db, Workload(**one))
        for name in ("ttft", "tpot", "request"):
            cell, single = getattr(sweep, name)[place], getattr(alone, name)[0]
            assert float(cell) == pytest.approx(float(single), rel=1e-12)
            assert cell.origin == single.origin
            assert cell.uncertainty == pytest.approx(single.uncertainty)
    flat = {"batch": [1, 7], "isl": [1, 100], "osl": [2, 33], "prefix": [0, 50]}
    arrays = {name: numpy.array(values) for name, values in flat.items()}
    scattered = price([OPS], db, Workload(**arrays)).request.latency
    single = price([OPS], db, Workload(batch=7, isl=100, osl=33, prefix=50)).request.latency[0]
    assert scattered[1] == pytest.approx(single, rel=1e-12)


def test_jumps_are_found(monkeypatch):
    """Attention in chunks reads p mod chunk tokens: long sweeps close in on the ends of chunks."""
    chunked = op(
        "generation_attention", "chunked", {"b": "b", "s": 1, "p": "p"}, 4, **HEADS, **DTYPES, chunk=512
    )  # fmt: skip
    ops = OpList(lowering="serving", phases={**OPS.phases, "generation": (chunked,)})
    sizes = {"batch": [1, 8, 8, 3], "isl": [500, 1020, 4000, 30_000], "osl": [9, 8, 300, 4000]}
    workload = Workload(**{name: numpy.array(values) for name, values in sizes.items()})
    exact = price([ops], DB, workload).tpot.latency
    monkeypatch.setattr("models.steps.EXACT", 1)
    assert price([ops], DB, workload).tpot.latency == pytest.approx(exact, rel=1e-5)


def test_uncertainties_combine():
    """Steps of one op err together, ops and phases apart."""
    db = PerfDatabase.load(system="h200_sxm", mode="empirical")
    found = price([OPS], db, Workload(batch=4, isl=100, osl=60))
    generation = found.stages[0].generation
    sigmas = [float(o.ms[0]) * o.ms[0].uncertainty for o in generation.ops]
    total = found.tpot[0]
    assert total.uncertainty * float(total) == pytest.approx(numpy.hypot(*sigmas))
    context, request = found.ttft[0], found.request[0]
    parts = (context.uncertainty * float(context), 59 * total.uncertainty * float(total))
    assert request.uncertainty * float(request) == pytest.approx(numpy.hypot(*parts))
    assert request.origin == "empirical"


def test_pipeline_stages():
    """Latencies add over stages; a full pipeline goes at the pace of its slowest stage."""
    slow = OpList(lowering="serving", phases={p: ops * 2 for p, ops in OPS.phases.items()})
    workload = Workload(batch=2, isl=64, osl=4)
    one, other = (price([ops], DB, workload) for ops in (OPS, slow))
    both = price([OPS, slow], DB, workload)
    for name in ("ttft", "tpot", "request"):
        parts = getattr(one, name).latency + getattr(other, name).latency
        assert getattr(both, name).latency == pytest.approx(parts)
    assert both.period.latency == pytest.approx(other.request.latency)


def test_silicon_names_what_is_missing(tmp_path):
    """All ops without data are told at once, in place of a price."""
    db = PerfDatabase.load(system="h200_sxm", mode="silicon", backend="trtllm", data=tmp_path)
    with pytest.raises(PerfDataNotAvailableError, match=r"3 ops have no data.*proj.*attention"):
        price([OPS], db, Workload(batch=1, isl=8, osl=2))


@pytest.mark.parametrize(
    "sizes",
    [{"batch": 0}, {"isl": 0}, {"osl": -1}, {"prefix": -1}, {"isl": 2**32}, {"batch": 1.5},
     {"isl": numpy.array([4, 0])}],
)  # fmt: skip
def test_bad_workloads(sizes):
    """A size that is no workload names itself and its range."""
    with pytest.raises(InvalidInputError, match=next(iter(sizes))):
        Workload(**{"batch": 1, "isl": 1, "osl": 1, **sizes})
