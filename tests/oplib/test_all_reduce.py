"""all_reduce: bytes in memory and over the links by hand."""

from oplib.op import kind


def sent(num_gpus, **how):
    """Bytes that one GPU sends of a message of 1 MiB."""
    one = kind("all_reduce")
    return one.link_bytes(one.complete({"num_gpus": num_gpus}), {"bytes": 2**20}, **how)


def test_by_hand(price):
    """Eight GPUs, 1 MiB: 2·7/8 of it over the links as a ring, once where the switch adds; read and written once."""
    assert price("all_reduce", {"num_gpus": 8}, {"bytes": 2**20}) == (0, 2 * 2**20)
    assert sent(8) == 1.75 * 2**20
    assert sent(2) == 2**20
    assert sent(8, switch_reduces=True) == 2**20
    assert sent(1) == 0
    assert price("all_reduce", {"num_gpus": 1}, {"bytes": 2**20}) == (0, 0)
