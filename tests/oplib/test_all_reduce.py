"""all_reduce: bytes in memory and over the links by hand."""

from oplib.op import kind


def sent(num_gpus, **how):
    """Bytes that one GPU sends of a message of 1 MiB."""
    one = kind("all_reduce")
    return one.link_bytes(one.complete({"num_gpus": num_gpus}), {"bytes": 2**20}, **how)


def spread(num_gpus, **how):
    """Bytes that one GPU of several servers sends within its own and over the network, of 1 MiB."""
    one = kind("all_reduce")
    return one.spread_bytes(one.complete({"num_gpus": num_gpus}), {"bytes": 2**20}, **how)


def test_by_hand(price):
    """Eight GPUs, 1 MiB: 2·7/8 of it over the links as a ring, once where the switch adds; read and written once."""
    assert price("all_reduce", {"num_gpus": 8}, {"bytes": 2**20}) == (0, 2 * 2**20)
    assert sent(8) == 1.75 * 2**20
    assert sent(2) == 2**20
    assert sent(8, switch_reduces=True) == 2**20
    assert sent(1) == 0
    assert price("all_reduce", {"num_gpus": 1}, {"bytes": 2**20}) == (0, 0)


def test_over_servers():
    """16 GPUs, 8 in a server: a ring of two servers for an eighth of 1 MiB each, 2·1/2/8; inside as one of 8."""
    assert spread(16, joins=8) == (1.75 * 2**20, 2**20 / 8)
    assert spread(16, joins=8, switch_reduces=True) == (2**20, 2**20 / 8)
    assert spread(4, joins=1) == (0, 1.5 * 2**20)
