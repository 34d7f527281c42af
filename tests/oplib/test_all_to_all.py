"""all_to_all: bytes in memory and over the links by hand."""

from oplib.op import kind


def sent(num_gpus, **how):
    """Bytes that one GPU sends of a message of 1 MiB."""
    one = kind("all_to_all")
    return one.link_bytes(one.complete({"num_gpus": num_gpus}), {"bytes": 2**20}, **how)


def spread(num_gpus, **how):
    """Bytes that one GPU of several servers sends within its own and over the network, of 1 MiB."""
    one = kind("all_to_all")
    return one.spread_bytes(one.complete({"num_gpus": num_gpus}), {"bytes": 2**20}, **how)


def test_by_hand(price):
    """Four GPUs, 1 MiB each: the quarter for oneself stays, the others leave and as many come."""
    assert price("all_to_all", {"num_gpus": 4}, {"bytes": 2**20}) == (0, 1.5 * 2**20)
    assert sent(4) == 0.75 * 2**20
    assert sent(1) == 0


def test_over_servers():
    """16 GPUs, 8 in a server: 8 of the 16 parts go to the other server, 7 to the others of the own."""
    assert spread(16, joins=8) == (7 / 16 * 2**20, 0.5 * 2**20)
    assert sum(spread(16, joins=8)) == sent(16)
