"""What is priced: the op list and the facts of a model, from a saved report or from a trace of a model path."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oplib.errors import InvalidInputError
from oplib.oplist import MARKS, Layer, OpList, read_report

Json = dict[str, Any]  # Any: an object decoded from JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """`report` is what `trace-model --json` prints, or an object that holds an op list and no more."""

    name: str
    op_list: OpList
    report: Json

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layer structures; none where only an op list was saved."""
        return tuple(Layer.from_json(layer) for layer in self.report.get("layers") or ())

    def layer_title(self, layer: str) -> str:
        """What heads the ops of one representative layer."""
        for item in self.layers:
            if f"{item.stack}.{item.representative}" == layer:
                return f"{layer} {item.cls} x{item.count}"
        return layer or "outside the layers"


def read_source(path: str, trace: Callable[[str], Json], *, lowering: str = "") -> Source:
    """The saved report or op list in the file `path`, which may have to be of a `lowering`; else what `trace` reports
    of the model that the path names.
    """
    report = read_report(path) if _is_saved(Path(path)) else trace(path)
    op_list = OpList.from_json(report)
    if lowering and op_list.lowering != lowering:
        raise InvalidInputError(
            f"--lowering is {lowering}, and the ops of {path!r} are of the lowering {op_list.lowering}.",
            f"Save them anew with trace-model --lowering {lowering}, name the model itself, or leave --lowering out.",
        )
    if not any(op_list.phases.values()):
        raise InvalidInputError(f"The op list of {path!r} holds no ops.", "Trace the model again.")
    name = str(report.get("model") or path)
    return Source(name=name, op_list=op_list, report=report)


def _is_saved(path: Path) -> bool:
    """Whether the file holds a report or an op list: a file that is no config is taken for a damaged one."""
    if not path.is_file():
        return False
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return path.name != "config.json"
    return not isinstance(data, dict) or any(mark in data for mark in MARKS)
