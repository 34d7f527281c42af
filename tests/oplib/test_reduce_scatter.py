"""reduce_scatter: bytes in memory and over the links by hand."""

from oplib.op import kind


def sent(num_gpus, **how):
    """Bytes that one GPU sends of a message of 1 MiB."""
    one = kind("reduce_scatter")
    return one.link_bytes(one.complete({"num_gpus": num_gpus}), {"bytes": 2**20}, **how)


def spread(num_gpus, **how):
    """Bytes that one GPU of several servers sends within its own and over the network, of 1 MiB."""
    one = kind("reduce_scatter")
    return one.spread_bytes(one.complete({"num_gpus": num_gpus}), {"bytes": 2**20}, **how)


def test_by_hand(price):
    """Four GPUs, 1 MiB each: three quarters leave, a quarter of the sum is written."""
    assert price("reduce_scatter", {"num_gpus": 4}, {"bytes": 2**20}) == (0, 1.25 * 2**20)
    assert sent(4) == 0.75 * 2**20
    assert sent(4, switch_reduces=True) == 0.75 * 2**20
    assert sent(1) == 0


def test_over_servers():
    """16 GPUs, 8 in a server: the sum of a sixteenth of 1 MiB leaves through each GPU, and inside 7/8 are sent."""
    assert spread(16, joins=8) == (0.875 * 2**20, 2**20 / 16)
