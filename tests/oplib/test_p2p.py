"""p2p: bytes in memory and over the links by hand."""

from oplib.op import kind


def sent(num_gpus, **how):
    """Bytes that one GPU sends of a message of 1 MiB."""
    one = kind("p2p")
    return one.link_bytes(one.complete({"num_gpus": num_gpus}), {"bytes": 2**20}, **how)


def spread(num_gpus, **how):
    """Bytes that one GPU of several servers sends within its own and over the network, of 1 MiB."""
    one = kind("p2p")
    return one.spread_bytes(one.complete({"num_gpus": num_gpus}), {"bytes": 2**20}, **how)


def test_by_hand(price):
    """The whole message leaves; within one GPU nothing does."""
    assert price("p2p", {"num_gpus": 2}, {"bytes": 2**20}) == (0, 2**20)
    assert sent(2) == 2**20
    assert sent(1) == 0


def test_over_servers():
    """All of it goes over the network."""
    assert spread(2, joins=1) == (0, 2**20)
