"""Work that tries to hide: in memory that is written and not read, through views, among positions, per element."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from oplib.symbols import evaluate
from tests.tracer import small_models, toy
from tests.tracer.toy import WIDTH, parameter
from tracer import analysis, primitives
from tracer.match import match
from tracer.match.flow import Flow
from tracer.match.targets import base_name, full_name
from tracer.prune import prune
from tracer.trace import capture, trace


class Buffer(nn.Module):
    """A tensor of a module that is no parameter."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.empty(*shape, device="meta", dtype=torch.bfloat16))


class Detached(torch.autograd.Function):
    """Work inside a function that autograd does not see."""

    @staticmethod
    def forward(_ctx, x):
        with torch.no_grad():
            return x.cumsum(1)


def out_argument(_m, x):
    """Written through `out`, read through a view made before."""
    made = torch.empty_like(x)
    early = made[:, :1]
    torch.cumsum(x, 1, out=made)
    return x + early


def slice_written(_m, x):
    made = torch.zeros_like(x)
    made[:, :1].copy_(x.cumsum(1)[:, :1])
    return made


def half_written(_m, x):
    made = torch.zeros_like(x)
    first, _ = made.chunk(2, -1)
    first.copy_(x.cumsum(1)[..., : WIDTH // 2])
    return made


def statistic(m, x):
    """Kept in a buffer that this pass does not read."""
    m.state.values.add_(x.cumsum(1)[0, 0])
    return x


def statistic_out(m, x):
    torch.mul(x.cumsum(1)[0, 0], 2.0, out=m.state.values)
    return x


def sorted_for_nothing(_m, x):
    x.sort(1)
    return x


def scattered_attention(_m, x):
    order = x[..., 0].argsort(1)
    return x.scatter(1, order[..., None].expand_as(x), x)


def chosen_by_where(_m, x):
    return torch.where(x.argmax(-1, keepdim=True) > 3, x, -x)


def gathered(_m, x):
    return x.gather(-1, x.topk(WIDTH, -1).indices)


def contraction(m, x):
    """A linear layer, written per element."""
    return x + (x[..., :, None] * m.w).sum(-2)


def scores(_m, x):
    """Attention scores, written per element."""
    return x + (x[:, :, None, :] * x[:, None, :3, :]).sum(-1).sum(-1, keepdim=True)


def complex_products(_m, x):
    z = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return x + torch.view_as_real(z.cumprod(1)).flatten(-2).to(x.dtype)


def three_factors(_m, x):
    return x + torch.einsum("bsi,bsi,bsi->bs", x, x, x)[..., None]


#: The body of a toy -> the primitive it must show.
HIDING = {
    out_argument: "cumsum",
    slice_written: "cumsum",
    half_written: "cumsum",
    statistic: "cumsum",
    statistic_out: "cumsum",
    sorted_for_nothing: "sort",
    scattered_attention: "argsort",
    chosen_by_where: "argmax",
    gathered: "topk",
    contraction: "sum",
    complex_products: "cumprod",
    three_factors: "einsum",
}


def parts() -> dict:
    return {"w": parameter(WIDTH, WIDTH), "state": Buffer(WIDTH)}


@pytest.mark.parametrize("body", list(HIDING), ids=lambda f: f.__name__)
def test_hidden_work_is_a_primitive(body):
    """It is never free, never memory-bound work, and never part of another op."""
    found = toy.matched(body, **parts())
    assert {base_name(node) for node in found.primitives} == {HIDING[body]}


class Frozen(toy.Toy):
    """Token features out of a table that is no parameter."""

    def forward(self, input_ids, past_key_values=None, **_options):
        features = functional.embedding(input_ids, self.table.values)
        return SimpleNamespace(logits=self.body(self, features), past_key_values=past_key_values)


def test_work_on_frozen_features_is_a_primitive():
    """Token data is token data, whoever holds its table; running sums of it are no position arithmetic."""
    model = Frozen(lambda _m, x: x.cumsum(1), table=Buffer(50, WIDTH)).eval()
    found = match(Flow(trace(model, capture(model), "context"), prune(model)))
    assert {base_name(node) for node in found.primitives} == {"cumsum", "embedding"}


def test_work_in_an_autograd_function_is_a_primitive():
    """`no_grad` and a function of one's own hide nothing."""
    found = toy.matched(lambda _m, x: Detached.apply(x))
    assert {base_name(node) for node in found.primitives} == {"cumsum"}


def few_streams(_m, x):
    """Four streams mixed by four weights: memory-bound, however it is written."""
    streams = x.unflatten(-1, (4, -1))
    return x + (streams[..., None, :, :] * streams[..., :1, None]).sum(-2).flatten(-2)


def weighted_sum(_m, x):
    return (x * x.sigmoid().mean(-1, keepdim=True)).sum(1, keepdim=True) + x


@pytest.mark.parametrize(
    "body",
    [few_streams, weighted_sum, lambda _m, x: x.view(torch.int16).bitwise_xor(1).view(x.dtype)],
)
def test_memory_bound_work_stays_memory_bound(body):
    """Sums of few products per element, and bit operations, take the time of their bytes."""
    assert toy.matched(body).primitives == {}


def test_a_product_with_a_buffer_is_priced():
    """A weight that is no parameter still makes a product of matrices."""
    found = toy.matched(lambda m, x: x @ m.table.values, table=Buffer(WIDTH, 7))
    (claim,) = toy.claims(found, "bmm")
    assert claim.params["n"] == 7
    assert claim.params["k"] == WIDTH


def test_a_product_of_position_values_is_priced():
    """Products are never free, whatever they multiply."""
    found = toy.matched(
        lambda _m, x: (
            x
            + torch.ones(x.shape[1], x.shape[1], device=x.device, dtype=x.dtype).tril()
            @ x[:, :, :1]
        )
    )
    assert len(toy.claims(found, "bmm")) == 1
    positions = toy.matched(
        lambda _m, x: (
            x
            + torch.ones(x.shape[1], 5, device=x.device, dtype=x.dtype)
            @ torch.ones(5, WIDTH, device=x.device, dtype=x.dtype)
        )
    )
    assert len(toy.claims(positions, "bmm")) == 1


@pytest.mark.parametrize(
    "equation",
    [
        "...i,...i,...i->...",
        "bsi,bsi,bsj->bij",
        "bsi,btj->bst",
        "bsi,bti,bui->bs",
        "...si,...ti",
        "bsi,btj,bsj->bt",
        "bsi,bsi->b",
    ],
)
def test_flops_of_any_einsum(equation):
    """A primitive's work is what torch's counter sees, whatever the equation."""
    factors = equation.count(",") + 1
    found = toy.matched(lambda _m, x: x + torch.einsum(equation, *[x] * factors).sum())
    (node,) = [n for n in found.flow.nodes if full_name(n) == "aten.einsum"]
    x = torch.empty(2, 10, WIDTH, device="meta")
    with FlopCounterMode(display=False) as counter:
        torch.einsum(equation, *[x] * factors)
    assert (
        evaluate(primitives.counted_flops(found.flow, node), b=2, s=10, p=0)
        == counter.get_total_flops()
    )


@pytest.mark.parametrize("phase", ["context", "generation"])
def test_a_value_that_leaves_the_graph_is_noted_with_its_work(phase):
    """Python gets a zero and the trace names the line; what made the value is work like any other."""
    by_value = toy.matched(lambda _m, x: x * float(functional.softmax(x, -1).max()), phase=phase)
    (line,) = by_value.flow.trace.asked
    assert line.startswith("test_hiding.py:")
    names = {full_name(n) for c in by_value.of("pointwise") for n in c.nodes}
    assert {"aten.softmax", "aten.max"} <= names | {full_name(n) for n in by_value.primitives}
    assert "unused" not in by_value.free.values()


@pytest.mark.parametrize(
    ("use", "answer"),
    [
        (lambda x: x if bool((x > 0).all()) else x @ x.mT @ x, "True"),
        (lambda x: x @ x.mT @ x if bool(x.sum() > 1) else x, "False"),
        (lambda x: x[:, int(x.argmax()) :], "0"),
    ],
)
def test_a_value_that_decides_is_noted(use, answer):
    """Branches and sizes that rest on an answer: the trace names line and answer, and the question's work is not
    unused.
    """
    found = toy.matched(lambda _m, x: use(x) * 1)
    (line,) = found.flow.trace.asked
    assert line.startswith("test_hiding.py:")
    assert line.endswith(f" {answer}")
    (place,) = analysis._decided_by_data(found.flow)
    assert place == line.split()[0]
    assert "unused" not in found.free.values()


def test_the_report_says_what_data_decides():
    """A question for the logits is named with the line that made them."""
    traced = small_models.traced("llama")
    one = traced.traces["context"]
    logits = one.graph.output_node().args[0][0]
    asked = replace(traced, traces={**traced.traces, "context": replace(one, questions=(logits,))})
    plain, told = (analysis.report(t, analysis.Options())["notes"] for t in (traced, asked))
    (note,) = [n for n in told if n not in plain]
    assert "what the model computes decides what runs" in note
    assert "modeling_llama.py:" in note


def test_a_value_of_the_workload_decides_nothing():
    """Lengths, positions and masks have the answer that the workload gives them."""
    found = toy.matched(
        lambda _m, x: (
            x * 2 if bool((torch.arange(x.shape[1], device=x.device) > 9).any()) else x + 1
        )
    )
    assert len(found.flow.trace.asked) == 1
    assert not list(analysis._decided_by_data(found.flow))


def test_values_that_leave_torch_are_an_error():
    """A round trip through arrays has no graph: an error, and no trace without that work."""
    with pytest.raises((RuntimeError, TypeError, NotImplementedError)):
        toy.matched(lambda _m, x: torch.from_numpy(x.float().numpy()))
