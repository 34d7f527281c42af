"""Models of a few lines, traced and matched like real ones: an embedding, a body given as a function, no cache."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import nn

from tracer.match import match
from tracer.match.claim import Claim, Matched
from tracer.match.flow import Flow
from tracer.prune import prune
from tracer.trace import capture, trace

WIDTH, VOCABULARY = 24, 50

Body = Callable[["Toy", torch.Tensor], torch.Tensor]


class Toy(nn.Module):
    """`body(self, x)` over embedded tokens (b, s, WIDTH); `parts` are modules and parameters it uses."""

    def __init__(self, body: Body, **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_hidden_layers=None)
        self.embed = nn.Embedding(VOCABULARY, WIDTH, device="meta", dtype=torch.bfloat16)
        self.body = body
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, input_ids, past_key_values=None, **_options):
        return SimpleNamespace(
            logits=self.body(self, self.embed(input_ids)), past_key_values=past_key_values
        )


def linear(columns: int, width: int = WIDTH, *, bias: bool = False) -> nn.Linear:
    """A linear layer on meta."""
    return nn.Linear(width, columns, bias=bias, device="meta", dtype=torch.bfloat16)


def parameter(*shape: int) -> nn.Parameter:
    """A parameter on meta."""
    return nn.Parameter(torch.empty(shape, device="meta", dtype=torch.bfloat16))


def matched(
    body: Body, *, phase: str = "context", without: tuple[str, ...] = (), **parts
) -> Matched:
    """The matched graph of one phase of a toy."""
    model = Toy(body, **parts).eval()
    found = trace(model, capture(model), phase)
    return match(Flow(found, prune(model)), without=without)


def claims(found: Matched, kind: str) -> list[Claim]:
    """The claims of a kind."""
    return list(found.of(kind))


def reasons(found: Matched) -> str:
    """Why the primitives are primitives, as one text."""
    return "; ".join(found.primitives.values())


def heads(x: torch.Tensor, count: int) -> torch.Tensor:
    """(b, s, count * d) -> (b, count, s, d)."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)
