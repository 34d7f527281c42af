"""What is known of a backend by its name. Which backends there are is what folders of tables say (`perfdb.foreign`)."""

from __future__ import annotations

from oplib.lowerings import USUAL

_LOWERINGS = {"torch": "torch"}  # of backends that are no serving engine
#: Root mean square of (sum of an op list's prices / whole model measured - 1), by phase, of the models in
#: docs/alignment.json that were compiled layer by layer and not disturbed.
_SUM_ERRORS = {"torch": {"context": 0.07, "generation": 0.03}}


def lowering_of(backend: str) -> str:
    """The lowering whose ops the tables of a backend measure; the usual one of no backend ("")."""
    return _LOWERINGS.get(backend, USUAL)


def sum_error(backend: str, phase: str) -> float | None:
    """By how much the sum of a phase's ops is off whole models, as one sigma; None where nobody has compared them."""
    return _SUM_ERRORS.get(backend, {}).get(phase)
