"""Layers that compute with their index are of one kind where only numbers differ, and of two where calls do."""

from types import SimpleNamespace

import pytest
from torch import nn

from tests.tracer import toy
from tracer import layer_calls
from tracer.prune import prune

DEPTH = 6


class Layer(nn.Module):
    """A linear layer and what `form` does with the index."""

    def __init__(self, form, index):
        super().__init__()
        self.form, self.layer_idx = form, index
        self.linear = toy.linear(toy.WIDTH)

    def forward(self, x):
        x = self.linear(x) * (1 - self.layer_idx / DEPTH)
        return self.form(self, x)


def same(_layer, x):
    return x


def longer(layer, x):
    return x.relu() if layer.layer_idx % 3 == 2 else x


def wider(layer, x):
    return x * x.new_ones(1 + layer.layer_idx // 4, 1, 1).sum(0)


def other_input(layer, x):
    y = x * 2
    return x + y if layer.layer_idx < 4 else y + y


def own_slot(layer, x):
    return x + x.new_zeros(DEPTH, 1)[layer.layer_idx]


def other_axis(layer, x):
    return x + x.new_zeros(7, 7).select(layer.layer_idx // 4, 3).sum()


FORMS = {
    same: [[0, 1, 2, 3, 4, 5]],
    longer: [[0, 1, 3, 4], [2, 5]],
    wider: [[0, 1, 2, 3], [4, 5]],
    other_input: [[0, 1, 2, 3], [4, 5]],
    own_slot: [[0, 1, 2, 3, 4, 5]],
    other_axis: [[0, 1, 2, 3], [4, 5]],
}


def stack(form) -> nn.Module:
    """A model of such layers."""

    def body(model, x):
        for layer in model.layers:
            x = layer(x)
        return x

    model = toy.Toy(body, layers=nn.ModuleList(Layer(form, i) for i in range(DEPTH))).eval()
    model.config = SimpleNamespace(num_hidden_layers=DEPTH)
    return model


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_calls_tell_layers_apart(form):
    """Operators, sizes, where tensors come from and whole numbers count; fractions and the index itself do not."""
    found = layer_calls.split(stack(form), {"layers": [list(range(DEPTH))]})
    assert found == {"layers": FORMS[form]}


def test_groups_are_only_ever_parted():
    """Layers that differ otherwise stay apart."""
    found = layer_calls.split(stack(longer), {"layers": [[0, 2, 4], [1, 3, 5]]})
    assert found == {"layers": [[0, 4], [2], [1, 3], [5]]}


def test_pruning_keeps_one_layer_of_each():
    """The reason becomes one of comparison, and every parameter is counted."""
    found = prune(stack(longer))
    assert [k.layer.indices for k in found.kept] == [(0, 1, 3, 4), (2, 5)]
    assert not found.reason
    assert found.compared == "Layer computes with its layer's index (layer_idx)"


def test_a_layer_without_calls_is_not_compared():
    """Nothing that it does is seen, so nothing is said of it."""
    model = stack(same)
    model.body = lambda _model, x: x
    with pytest.raises(RuntimeError, match=r"layers\.0 makes no calls"):
        layer_calls.split(model, {"layers": [list(range(DEPTH))]})


def test_layers_that_do_not_run_keep_their_depth():
    """What no pass can compare is not taken for the same."""

    def fails(_layer, _x):
        raise ValueError("no")

    found = prune(stack(fails))
    assert len(found.kept) == DEPTH
    assert "computes with its layer's index" in found.reason
