"""reduce_scatter: bytes in memory and over the links by hand."""

from oplib.op import kind


def sent(num_gpus, **how):
    """Bytes that one GPU sends of a message of 1 MiB."""
    one = kind("reduce_scatter")
    return one.link_bytes(one.complete({"num_gpus": num_gpus}), {"bytes": 2**20}, **how)


def test_by_hand(price):
    """Four GPUs, 1 MiB each: three quarters leave, a quarter of the sum is written."""
    assert price("reduce_scatter", {"num_gpus": 4}, {"bytes": 2**20}) == (0, 1.25 * 2**20)
    assert sent(4) == 0.75 * 2**20
    assert sent(4, switch_reduces=True) == 0.75 * 2**20
    assert sent(1) == 0
