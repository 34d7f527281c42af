"""Differences of two runs, and the best of many."""

from models.compare import by_kind, differences, frontier


def report(*ops, osl=11):
    fields = ("phase", "name", "op", "ms")
    return {
        "workload": {"osl": osl},
        "ops": [dict(zip(fields, op, strict=True)) for op in ops],
    }


FIRST = report(
    ("context", "qkv", "gemm", 5.0),
    ("generation", "qkv", "gemm", 1.0),
    ("generation", "norm", "pointwise", 0.1),
)
SECOND = report(
    ("context", "qkv", "gemm", 3.0),
    ("generation", "qkv", "gemm", 0.5),
    ("generation", "reduce", "all_reduce", 0.2),
)


def test_sorted_by_what_they_add_to_a_request():
    """Ten steps weigh a generation op ten times; an op that one run lacks counts whole."""
    found = differences(FIRST, SECOND)
    assert [(d["phase"], d["name"], d["ms"]) for d in found] == [
        ("generation", "qkv", -5.0),
        ("context", "qkv", -2.0),
        ("generation", "reduce", 2.0),
        ("generation", "norm", -1.0),
    ]
    assert found[2]["first_ms"] is None
    assert found[3]["second_ms"] is None


def test_turned_round_it_is_the_opposite():
    """Who is first changes signs alone, by op and by kind."""
    for group in (list, by_kind):
        there, back = group(differences(FIRST, SECOND)), group(differences(SECOND, FIRST))
        key = lambda d: (d["phase"], d.get("name"), d["op"])  # noqa: E731 - two uses, one line
        assert {key(d): d["ms"] for d in there} == {key(d): -d["ms"] for d in back}


def test_frontier():
    """Of runs of one length the unbeaten ones that fit; other lengths have their own."""

    def run(user, gpu, fits=True, isl=1):
        return {
            "tokens_per_s_per_user": user,
            "tokens_per_s_per_gpu": gpu,
            "memory": {"fits": fits},
            "workload": {"isl": isl, "osl": 2, "prefix": 0},
        }

    runs = [run(10, 1), run(5, 4), run(5, 3), run(4, 4), run(2, 9, fits=False)]
    runs += [run(1, 1, isl=2), run(None, 9)]
    assert frontier(runs) == {0, 1, 5}
