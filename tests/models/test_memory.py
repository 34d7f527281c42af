"""What a rank holds: hand-worked sizes, sums over ranks, and the largest batch that fits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.layout import Layout
from models.memory import BUFFER_BYTES, Footprint, footprint
from oplib.errors import InvalidInputError, OpListFormatError
from oplib.wording import gib
from perfdb.systems import load_system
from tests.models import op_lists
from tests.models.op_lists import DENSE, LAYERS, MIXTURE

KEYS = 2 * 4 * 16 * 2  # keys and values of 4 heads of 16 in bfloat16

GIB = 2**30


def report(**more: Any) -> dict[str, Any]:
    """The report of `op_lists.mixture()`, as far as memory needs it."""
    cache = [
        {
            "layer": layer,
            "count": count,
            "bytes": f"{KEYS}*b*p",
            "dtype": "bfloat16",
            "grows": True,
            "shards": {"4": f"{KEYS}*b*p"},
        }
        for layer, count in ((DENSE, 2), (MIXTURE, 5))
    ]
    state = {**cache[1], "bytes": "4096*b", "dtype": "float32", "grows": False, "shards": {}}
    peaks = [
        {
            "where": "mlp",
            "bytes": "512*b*s",
            "shards": {"96": "384*b*s"},
            "experts": {"hidden": "768*b*s", "inner": "1152*b*s"},
        },
        {
            "where": "lm_head",
            "bytes": "128*b*s + 640*b",
            "shards": {"320": "640*b"},
            "experts": {"hidden": 0, "inner": 0},
        },
    ]
    return {
        "schema": 1,
        "layers": [{**la.to_json(), "id": f"{la.stack}.{la.representative}"} for la in LAYERS],
        "op_list": op_lists.mixture().to_json(),
        "idle": [{"bytes": 1000}],
        "kv_cache": {"stored_as": "", "leaves": [*cache, state]},
        "activations": {"context": {"peaks": peaks}, "generation": {"peaks": peaks}},
        **more,
    }


def weights() -> int:
    return sum(op.get_weights() for op in op_lists.mixture().ops("context"))


def test_one_gpu_holds_everything():
    found = footprint(report(), Layout()).at(b=3, s=10, p=7)
    assert found.weights == weights() + 1000
    assert found.kv_cache == 7 * KEYS * 3 * 17 + 5 * 4096 * 3
    assert found.activations == (512 + 768 + 1152) * 30
    assert found.buffers == 0
    assert found.total == sum((found.weights, found.kv_cache, found.activations))


def test_heads_are_dealt_states_are_not():
    """Four key heads on two ranks halve; on eight ranks each has one, so half of the ranks hold copies."""
    for tp, part in ((2, 2), (4, 4), (8, 4)):
        found = footprint(report(), Layout(tp=tp)).at(b=3, s=10)
        assert found.kv_cache == 7 * KEYS * 30 // part + 5 * 4096 * 3


def test_another_dtype_of_the_cache():
    """Keys and values in one byte; the recurrent state keeps its own."""
    found = footprint(report(), Layout(), kv_dtype="fp8").at(b=1, s=10)
    assert found.kv_cache == 7 * KEYS * 10 // 2 + 5 * 4096
    stored = report()
    stored["kv_cache"]["stored_as"] = "fp8"
    assert footprint(stored, Layout()).at(b=1, s=10).kv_cache == found.kv_cache


def test_experts_route_their_share():
    """Of hidden features a rank has 1/ep of the pairs of all groups, of inner ones 1/moe_tp of these."""
    for layout, hidden, inner in (
        (Layout(tp=4), 1, 4),
        (Layout(tp=4, ep=4), 4, 4),
        (Layout(dp=4, ep=4), 1, 1),
        (Layout(dp=4), 1 / 4, 1),
    ):
        found = footprint(report(), layout).at(b=1, s=100)
        plain = 512 - 384 + 384 / layout.tp
        assert found.activations == 100 * (plain + 768 / hidden + 1152 / inner), layout


def test_buffers_are_of_groups_and_messages():
    found = footprint(report(), Layout(tp=4)).at(b=1, s=100)
    assert found.buffers == BUFFER_BYTES + 2 * 128 * 100
    pairs = footprint(report(), Layout(tp=2, pp=2)).at(b=1, s=100)
    assert pairs.buffers == 2 * BUFFER_BYTES + 2 * 128 * 100


def test_the_fullest_stage_decides():
    found = footprint(report(), Layout(pp=3))
    held = [stage.weights for stage in found.stages]
    assert sum(held) == weights() + 1000
    at = found.at(b=1, s=10)
    assert at.stage == 1  # three layers with experts
    assert at.weights == max(held)
    assert at.kv_cache == 3 * KEYS * 10 + 3 * 4096


def test_a_pass_takes_a_part_of_a_long_prompt():
    found = footprint(report(), Layout())
    assert found.at(b=8, s=1000, most_tokens=500).activations == (512 + 768 + 1152) * 500
    assert found.at(b=8, s=100, most_tokens=500).activations == (512 + 768 + 1152) * 500
    assert found.at(b=2, s=100, most_tokens=500).activations == (512 + 768 + 1152) * 200


def fitting(capacity: int, **more: Any) -> Footprint:
    made = footprint(report(), Layout(**more))
    return Footprint(stages=made.stages, capacity=capacity)


@settings(deadline=None, max_examples=40)
@given(
    spare=st.integers(0, 2**28),
    s=st.integers(1, 3000),
    p=st.integers(0, 3000),
    most=st.sampled_from([0, 64, 1000]),
    tp=st.sampled_from([1, 2, 4]),
)
def test_the_largest_batch_fits_and_one_more_does_not(spare, s, p, most, tp):
    found = fitting(weights() + spare, tp=tp)
    largest = found.largest_batch(s=s, p=p, most_tokens=most)
    assert largest == 0 or found.at(b=largest, s=s, p=p, most_tokens=most).fits
    assert not found.at(b=largest + 1, s=s, p=p, most_tokens=most).fits


def test_what_is_missing_is_said():
    found = fitting(100).at(b=1, s=10)
    assert not found.fits
    assert found.missing == found.total - 100
    assert found.verdict == f"does not fit by {gib(found.missing)}"
    assert fitting(100).largest_batch(s=10) == 0
    assert "to spare" in fitting(2 * GIB).at(b=1, s=10).verdict


def test_the_capacity_is_that_of_the_system():
    found = footprint(report(), Layout(), system=load_system("h200_sxm"), usable=0.5)
    assert found.capacity == 141e9 / 2
    json.dumps(found.at(b=1, s=1).to_json())


@pytest.mark.parametrize("at", [{"b": 0, "s": 1}, {"b": 1, "s": 0}, {"b": 1, "s": 1, "p": -1}])
def test_impossible_workloads_are_refused(at):
    with pytest.raises(InvalidInputError, match="A workload of"):
        footprint(report(), Layout()).at(**at)


def test_other_mistakes_are_refused():
    with pytest.raises(InvalidInputError, match="usable"):
        footprint(report(), Layout(), usable=1.5)
    with pytest.raises(InvalidInputError, match="needs a capacity"):
        footprint(report(), Layout()).largest_batch(s=1)
    with pytest.raises(OpListFormatError, match="has no 'leaves'"):
        footprint(report(kv_cache={"stored_as": ""}), Layout())
