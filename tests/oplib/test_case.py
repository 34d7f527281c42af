"""Cases and plans: what a collector reads is what triage wrote, and a point has one id for ever."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oplib.case import Case, Plan, read_plan
from oplib.errors import InvalidInputError

CASE = Case(op="gemm", params={"n": 8, "k": 4, "dtype": "bfloat16"}, dims={"m": 2}, bound_ms=0.5)
PLAN = Plan(system="h200_sxm", backend="toy", version="1.0", model="some/model", cases=(CASE,))


def test_an_id_follows_from_the_point_alone():
    """What a collector has stored stays valid: the id of a point is a fixed text."""
    assert CASE.case_id == "e758816569a52309"
    same = Case(
        op="gemm",
        params={"dtype": "bfloat16", "k": 4, "n": 8, "bias": False},
        dims={"m": 2},
        reason="another",
        needed_by=("context lm_head",),
        bytes=7,
    )
    assert same.case_id == CASE.case_id


@pytest.mark.parametrize(
    "change",
    [
        {"dims": {"m": 3}},
        {"params": {"n": 4, "k": 8, "dtype": "bfloat16"}},
        {"params": {"n": 8, "k": 4, "dtype": "fp8"}},
        {"params": {"n": 8, "k": 4, "dtype": "bfloat16", "bias": True}},
    ],
)
def test_another_point_has_another_id(change):
    same = {"op": "gemm", "params": CASE.params, "dims": CASE.dims}
    assert Case(**{**same, **change}).case_id != CASE.case_id


@given(
    sizes=st.lists(st.tuples(st.integers(1, 2**40), st.integers(0, 2**40)), max_size=5),
    bound=st.floats(0, 1e6),
    label=st.text(max_size=20),
)
def test_a_plan_survives_its_file(sizes, bound, label):
    """Any model path and label, line breaks in them included."""
    cases = tuple(
        Case(
            op="gemm",
            params={"n": n, "k": 4, "dtype": "fp8"},
            dims={"m": m},
            bound_ms=bound,
            bytes=m,
            reason=label,
            needed_by=(label,),
        )
        for n, m in sizes
    )
    plan = Plan(system="h200_sxm", backend="toy", version="", model=label, cases=cases)
    assert Plan.from_text(plan.to_text()) == plan


def lines(**header):
    first, *rest = (json.loads(line) for line in PLAN.to_text().splitlines())
    return [{**first, **header}, *rest]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lines(schema=2), "schema"),
        (lines(schema=True), "schema"),
        (lines(cases=2), "2 cases and has 1"),
        (lines(system=None), "'system'"),
        ([], "schema"),
        ([*lines(cases=2), [1]], "Line 3"),
        ([*lines(cases=2), {**CASE.to_json(), "case_id": "0" * 16}], "Line 3.*case_id"),
        ([*lines(cases=2), {**CASE.to_json(), "dims": {"m": -1}}], "Dim m"),
        ([*lines(cases=2), {**CASE.to_json(), "dims": {"m": 1.5}}], "Dim m"),
        ([*lines(cases=2), {**CASE.to_json(), "dims": {"m": True}}], "Dim m"),
        ([*lines(cases=2), {**CASE.to_json(), "dims": {}}], "dims"),
        ([*lines(cases=2), {**CASE.to_json(), "op": "no_such_op"}], "no_such_op"),
        ([*lines(cases=2), {**CASE.to_json(), "params": {"n": 8}}], "needs"),
        ([*lines(cases=2), {**CASE.to_json(), "bound_ms": "fast"}], "bound_ms"),
    ],
)
def test_a_plan_that_cannot_be_measured_is_refused(changed, said, tmp_path):
    path = tmp_path / "plan.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in changed))
    with pytest.raises(InvalidInputError, match=said) as caught:
        read_plan(path)
    assert "plan.jsonl" in caught.value.message


def test_what_is_no_plan_is_refused(tmp_path):
    path = tmp_path / "plan.jsonl"
    path.write_text(PLAN.to_text()[:-5])
    with pytest.raises(InvalidInputError, match="not JSON"):
        read_plan(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInputError, match="Cannot read"):
        read_plan(path)
    with pytest.raises(InvalidInputError, match="Cannot read"):
        read_plan(tmp_path / "absent")
