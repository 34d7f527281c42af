"""all_gather: bytes in memory and over the links by hand."""

from oplib.op import kind


def sent(num_gpus, **how):
    """Bytes that one GPU sends of a message of 1 MiB."""
    one = kind("all_gather")
    return one.link_bytes(one.complete({"num_gpus": num_gpus}), {"bytes": 2**20}, **how)


def spread(num_gpus, **how):
    """Bytes that one GPU of several servers sends within its own and over the network, of 1 MiB."""
    one = kind("all_gather")
    return one.spread_bytes(one.complete({"num_gpus": num_gpus}), {"bytes": 2**20}, **how)


def test_by_hand(price):
    """Four GPUs, 1 MiB gathered: each has a quarter and sends 3/4 of the whole."""
    assert price("all_gather", {"num_gpus": 4}, {"bytes": 2**20}) == (0, 2**20)
    assert sent(4) == 0.75 * 2**20
    assert sent(4, switch_reduces=True) == 0.75 * 2**20
    assert sent(1) == 0


def test_over_servers():
    """16 GPUs, 8 in a server: the own sixteenth of 1 MiB goes to the other server once, and inside 7/8 are sent."""
    assert spread(16, joins=8) == (0.875 * 2**20, 2**20 / 16)
    assert spread(32, joins=8) == (0.875 * 2**20, 3 * 2**20 / 32)
