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


def runnable(
    kind: OpKind, params: Params, system: System, table: Table | None
) -> tuple[Params, list[str]]:
    """Parameters that run on the system, by rows of the table where there is one, and a line for each change."""
    notes: list[str] = []
    if "dtype" not in params or text(params, "dtype") not in QUANT_MODES:
        return params, notes
    while kind.compute_dtype(params) not in system.peak:
        mode = QUANT_MODES[text(params, "dtype")]
        if not mode.nearest:
            break
        notes.append(
            f"{system.id} does not multiply in {mode.name}: {kind.name} runs {mode.nearest}."
        )
        params = {**params, "dtype": mode.nearest}
    mode = QUANT_MODES[text(params, "dtype")]
    measured = [] if table is None else table.params["dtype"].used
    if table is None or mode.name in measured:
        return params, notes
    for other in QUANT_MODES.values():
        widths = (other.weight_bits, other.activation_bits)
        if widths == (mode.weight_bits, mode.activation_bits) and other.name in measured:
            backend, version = table.path.parts[-3:-1]
            notes.append(
                f"{backend} {version} has no {mode.name} {kind.name}: {other.name} answers."
            )
            return {**params, "dtype": other.name}, notes
    return params, notes
