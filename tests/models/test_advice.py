"""Notes that say what would change a price."""

import pytest

from models.advice import beyond_rows, collected, listed, of_other_ops
from oplib.oplist import OpList
from tests.models.op_lists import DENSE, gemm


def row(name, origin="measured", phase="context", share=0.25):
    return {"name": name, "origin": origin, "phase": phase, "share": share}


def test_passes_beyond_the_rows():
    """Context ops count, generation ones do not: what one pass has too many of, cutting it mends."""
    ops = [row("a", "extrapolated"), row("b"), row("c", "extrapolated", "generation")]
    (note,) = beyond_rows(ops)
    assert "(a)" in note
    assert "--chunk" in note
    assert not list(beyond_rows(ops[1:]))


def test_ops_that_tables_did_not_measure():
    """A list of one lowering beside tables of another is said, with what makes the other list."""
    phases = {"context": (), "generation": ()}
    served, compiled = (OpList(lowering=name, phases=phases) for name in ("serving", "torch"))
    (note,) = of_other_ops(served, "torch")
    assert "trace-model --lowering torch" in note
    assert list(of_other_ops(compiled, "vllm"))
    for whole, backend in ((compiled, "torch"), (served, "vllm"), (compiled, ""), (served, "")):
        assert not list(of_other_ops(whole, backend))


@pytest.mark.parametrize(("layer", "said"), [(DENSE, True), ("", False)])
def test_what_a_plan_collects(layer, said):
    """Within layers; the logits, which every engine gathers, and the dispatch of experts are none of it."""
    whole = OpList(
        lowering="serving",
        phases={"context": (gemm("qkv", 96, 64, layer=layer, collective="all_gather"),), "generation": ()},
    )  # fmt: skip
    found = list(collected([row("qkv.all_gather"), row("mlp.experts.all_gather")], whole))
    assert bool(found) == said
    assert not said or "(qkv.all_gather, up to 25% of a phase)" in found[0]


def test_three_names():
    assert listed("abca") == "a, b, c"
    assert listed("abcde") == "a, b, c and 2 more"
