"""What runs in the place of a quantisation that a GPU or a backend cannot run.

A GPU without the peak rate of a mode cannot multiply in it: the mode that is nearest in width takes over, wider and
not narrower. Where a table has no rows of a mode, one of equal widths answers.
"""

from __future__ import annotations

from oplib.dtypes import QUANT_MODES
from oplib.kind import OpKind
from oplib.params import Params, text
from perfdb.systems import System
from perfdb.tables import Table


def runnable(kind: OpKind, params: Params, system: System) -> tuple[Params, list[str]]:
    """Parameters that run on the system, and a line for each change."""
    notes: list[str] = []
    if not _quantised(params):
        return params, notes
    while kind.compute_dtype(params) not in system.peak:
        mode = QUANT_MODES[text(params, "dtype")]
        if not mode.nearest:
            break
        notes.append(
            f"{system.id} does not multiply in {mode.name}: {kind.name} runs {mode.nearest}."
        )
        params = {**params, "dtype": mode.nearest}
    return params, notes


def answering(kind: OpKind, params: Params, table: Table) -> tuple[Params, list[str]]:
    """Parameters whose rows of the table answer, and a line where they are others."""
    if not _quantised(params):
        return params, []
    mode, measured = QUANT_MODES[text(params, "dtype")], table.params["dtype"].used
    if mode.name in measured:
        return params, []
    for other in QUANT_MODES.values():
        widths = (other.weight_bits, other.activation_bits)
        if widths == (mode.weight_bits, mode.activation_bits) and other.name in measured:
            backend, version = table.path.parts[-3:-1]
            note = f"{backend} {version} has no {mode.name} {kind.name}: {other.name} answers."
            return {**params, "dtype": other.name}, [note]
    return params, []


def _quantised(params: Params) -> bool:
    return "dtype" in params and text(params, "dtype") in QUANT_MODES
