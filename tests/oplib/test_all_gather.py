"""all_gather: bytes in memory and over the links by hand."""

from oplib.op import kind


def sent(num_gpus, **how):
    """Bytes that one GPU sends of a message of 1 MiB."""
    one = kind("all_gather")
    return one.link_bytes(one.complete({"num_gpus": num_gpus}), {"bytes": 2**20}, **how)


def test_by_hand(price):
    """Four GPUs, 1 MiB gathered: each has a quarter and sends 3/4 of the whole."""
    assert price("all_gather", {"num_gpus": 4}, {"bytes": 2**20}) == (0, 2**20)
    assert sent(4) == 0.75 * 2**20
    assert sent(4, switch_reduces=True) == 0.75 * 2**20
    assert sent(1) == 0
