"""How a model runs on sizes alone: over which tensors, over which token ids, up to which length.

Plain meta tensors are the rule. Models that ask tensors for values run over fake tensors, which transformers knows to
be without values; where a model asks all the same, the answer is zero, and the line that asked is written down.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from oplib.errors import UnsupportedModelError
from tracer import boundaries, provenance
from tracer.cache import run
from tracer.carried import state_kept
from tracer.recorder import (
    MOST_CALLS,
    Answers,
    Call,
    CallCount,
    EndlessError,
    Recorder,
    busiest_line,
    too_many_calls,
)
from tracer.shape_memory import ShapeMemory

META, FAKE, ANSWERED = "meta", "fake", "answered"
KINDS = (META, FAKE, ANSWERED)
#: What tensors without values raise where the length of a result is a count of some of their elements.
SIZES_OF_VALUES = (DynamicOutputShapeException, GuardOnDataDependentSymNode)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`tensors` is one of `KINDS`, a token is `rows` rows of ids, and the model has `positions`, or no limit.

    `rereads` says that a pass is given the cached tokens as well, `fresh` that only one token at a time runs over a
    cache.
    """

    tensors: str = META
    rows: int = 1
    positions: int | None = None
    rereads: bool = False
    fresh: bool = False

    def ids(self, model: nn.Module, b: int, s: int, p: int = 0) -> torch.Tensor:
        """Token ids of a pass over s new tokens and p cached ones."""
        device = next(model.parameters()).device
        length = p + s if self.rereads else s
        return torch.zeros(b * self.rows, length, dtype=torch.long, device=device)

    @contextlib.contextmanager
    def mode(self) -> Iterator[set[str]]:
        """Within the context, tensors are of this kind. Gives the lines whose questions were answered."""
        with contextlib.ExitStack() as stack:
            asked: set[str] = set()
            if self.tensors == META:
                stack.enter_context(ShapeMemory())
            else:
                stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            if self.tensors == ANSWERED:
                asked = stack.enter_context(Answers()).asked
            yield asked

    def fill(self, model: nn.Module, b: int, p: int) -> Any:
        """The cache after p fresh tokens."""
        with self.mode():
            return run(model, self.ids(model, b, p))[1]


PLAIN = Setting()


@contextlib.contextmanager
def alone(model: nn.Module) -> Iterator[None]:
    """Passes within the context leave nothing on the model, and run its boundaries."""
    with torch.no_grad(), boundaries.bind(model), state_kept(model):
        yield


def setting_of(model: nn.Module) -> Setting:
    """The first setting in which three tokens of one sequence run; raises what the last one raised. Where the model's
    code loops without end on as few, that is an error at once, with the line."""
    errors = []
    for kind in KINDS:
        for rows in dict.fromkeys((1, _tables(model))):
            setting = Setting(tensors=kind, rows=rows)
            try:
                with CallCount(MOST_CALLS):
                    setting.fill(model, 1, 3)
            except EndlessError:
                _calls(model, setting, 1, 3)  # raises the error that names the line
                raise
            except Exception as error:  # noqa: BLE001 - any failure of the model's own code: another setting may run
                errors.append(error)
            else:
                return setting
    raise errors[-1]


def _tables(model: nn.Module) -> int:
    """Token ids per token: the tables of the longest list of embeddings (one for each codebook of audio), or 1."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    tables = [len(m) for m in lists if all(isinstance(e, nn.Embedding) for e in m)]
    return max(tables, default=1)


def limited(model: nn.Module, setting: Setting, most: int) -> Setting:
    """The setting with the longest length, up to `most`, that runs on fresh tokens."""

    def runs(p: int) -> bool:
        try:
            setting.fill(model, 2, p)
        except Exception:  # noqa: BLE001 - whatever a length beyond a table raises
            return False
        return True

    if runs(most):
        return setting
    high = 4  # most tables have a power of two rows
    while high < most and runs(high):
        high *= 2
    low = high // 2
    if not runs(low + 1):
        return replace(setting, positions=low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if runs(middle) else (low, middle)
    return replace(setting, positions=low)


def refusing_token_loops(
    model: nn.Module, setting: Setting, points: Sequence[tuple[int, int]]
) -> Callable[[int, int], Any]:
    """`Setting.fill` of a model for these points (batch, tokens), in their order: where the calls of the first two
    foretell too many for the longest, it raises before that runs.
    """
    counts: list[int] = []
    most = max(p for _, p in points)

    def fill(b: int, p: int) -> Any:
        if len(counts) > 1:
            return setting.fill(model, b, p)
        with CallCount() as count:
            cache = setting.fill(model, b, p)
        counts.append(count.calls)
        if len(counts) == 2:
            (_, short), (_, longer) = points[:2]
            growth = (counts[1] - counts[0]) * (most - longer) // (longer - short)
            if counts[1] + growth > MOST_CALLS:
                raise too_many_calls(_busiest(model, setting, longer))
        return cache

    return fill


def _busiest(model: nn.Module, setting: Setting, p: int) -> str:
    return busiest_line(_calls(model, setting, 1, p))


def refuse_sequence_loops(model: nn.Module, setting: Setting) -> None:
    """Raise where a line runs once more for each sequence of the batch: the number of calls is no size of a graph."""
    with alone(model):
        counts = [Counter(c.origin.source for c in _calls(model, setting, b, 3)) for b in (2, 3, 4)]
    few, more, most = counts
    lines = [at for at in few if most[at] - more[at] == more[at] - few[at] > 0]
    if lines:
        raise UnsupportedModelError(
            f"its forward pass loops over the sequences of a batch in Python, at {lines[0]}: how many operators it "
            "calls depends on b.",
            hint="Such a loop needs a boundary, see tracer/boundaries/.",
        )


def _calls(model: nn.Module, setting: Setting, b: int, p: int) -> list[Call]:
    with provenance.recorded(model) as locate, setting.mode(), Recorder(locate) as recorder:
        run(model, setting.ids(model, b, p))
    return recorder.calls
