"""all_to_all: bytes in memory and over the links by hand."""

from oplib.op import kind


def sent(num_gpus, **how):
    """Bytes that one GPU sends of a message of 1 MiB."""
    one = kind("all_to_all")
    return one.link_bytes(one.complete({"num_gpus": num_gpus}), {"bytes": 2**20}, **how)


def test_by_hand(price):
    """Four GPUs, 1 MiB each: the quarter for oneself stays, the others leave and as many come."""
    assert price("all_to_all", {"num_gpus": 4}, {"bytes": 2**20}) == (0, 1.5 * 2**20)
    assert sent(4) == 0.75 * 2**20
    assert sent(1) == 0
