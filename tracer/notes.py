"""What a report says in words: what a model was taken for, and what its sizes rest on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracer.analysis import Traced


def of(traced: Traced) -> list[str]:
    """The notes of a report, a sentence each."""
    notes = [*traced.resolved.notes]
    if traced.pruning.reason:
        notes.append(f"traced at full depth: {traced.pruning.reason}")
    if traced.pruning.compared:
        notes.append(
            f"{traced.pruning.compared}: layers are of one kind where they make the same calls on the same sizes"
        )
    notes.extend(_setting_notes(traced))
    if traced.capture.replaced:
        notes.append(
            "the model's first pass changes it for good; the list is of the passes after that: "
            + ", ".join(traced.capture.replaced)
        )
    if any(t.branches for t in traced.traces.values()):
        whole = " of whole blocks" if any(t.whole_blocks for t in traced.traces.values()) else ""
        notes.append(
            f"the model branches on sizes (windows, top-k): the graph is that of long sequences{whole}, see traced_at"
        )
    return notes


def _setting_notes(traced: Traced) -> list[str]:
    """What a model that runs in a setting of its own was taken for. A question for a value is no error: most ask for
    padding, for a check, or whether generation is over, and zero is what the workload means.
    """
    notes = []
    setting = traced.traces["generation"].setting
    if setting.positions:
        notes.append(f"the model runs over {setting.positions} positions at most")
    if setting.rows > 1:
        notes.append(
            f"each token is {setting.rows} token ids, one per codebook: ids have {setting.rows}*b rows"
        )
    if setting.rereads:
        notes.append(
            "the model keeps no cache, or not of all that it needs: a pass reads all p + s tokens, "
            "that for a generated token p + 1"
        )
    if traced.traces["context"].setting.fresh:
        notes.append(
            "the model takes one token at a time over a cache: a context pass at p > 0 is priced as at p = 0"
        )
    if traced.by_pass:
        notes.append(
            "the cache keeps the tokens of the first pass in another way than those of later ones: the p cached tokens "
            "are taken for a prompt of one pass"
        )
    asked = sorted({line for t in traced.traces.values() for line in t.asked})
    if asked:
        notes.append(
            "the model asks for values, which decide what runs or how large it is; the list holds for these answers "
            "alone: " + ", ".join(asked)
        )
    return notes
