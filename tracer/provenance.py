"""Where every traced node comes from: module path, module class, source file and line."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import torch
import transformers
from torch.fx import Node

_TORCH = str(Path(torch.__file__).parent) + os.sep
_TRANSFORMERS = str(Path(transformers.__file__).parent) + os.sep
_MODELS = _TRANSFORMERS + "models" + os.sep
_HERE = str(Path(__file__).parent) + os.sep
_CALLER = _HERE + "trace.py"  # the forward pass starts here: what called it is not the model's code
_STDLIB = str(Path(os.__file__).parent) + os.sep
_SITE_PACKAGES = "site-packages" + os.sep


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Module path (of the traced model), module class, file and line that made a node."""

    module: str
    module_class: str
    file: str
    line: int

    @property
    def source(self) -> str:
        """`file.py:line`, the file without its folders."""
        return f"{os.path.basename(self.file)}:{self.line}" if self.file else ""


NOWHERE = Origin(module="", module_class="", file="", line=0)


def origin(node: Node) -> Origin:
    """The origin recorded on a node while it was traced."""
    return node.meta.get("origin", NOWHERE)


@functools.cache
def _is_infrastructure(filename: str) -> bool:
    if filename.startswith(_MODELS) or filename == _HERE + "build.py":
        return False
    if filename.startswith((_TORCH, _TRANSFORMERS, _HERE, "<")):
        return True
    return filename.startswith(_STDLIB) and _SITE_PACKAGES not in filename


def _user_frame(frame: FrameType | None) -> tuple[str, int]:
    while frame is not None and frame.f_code.co_filename != _CALLER:
        filename = frame.f_code.co_filename
        if not _is_infrastructure(filename):
            return filename, frame.f_lineno
        frame = frame.f_back
    return "", 0


def model_line() -> str:
    """`file.py:line` of the innermost line of model code that is running."""
    file, line = _user_frame(sys._getframe(1))
    return f"{os.path.basename(file)}:{line}" if file else ""


def line_of(error: BaseException) -> str:
    """`file.py:line` of the innermost line of model code that an error came through."""
    frames = [(t.tb_frame.f_code.co_filename, t.tb_lineno) for t in _steps(error.__traceback__)]
    found = [(f, line) for f, line in frames if not _is_infrastructure(f)]
    return f"{os.path.basename(found[-1][0])}:{found[-1][1]}" if found else ""


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised in this package, not in a model's code or in what that calls."""
    *_, last = _steps(error.__traceback__)
    return last.tb_frame.f_code.co_filename.startswith(_HERE)


def _steps(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


@contextlib.contextmanager
def recorded(model: torch.nn.Module) -> Iterator[Callable[[], Origin]]:
    """Within the context, the yielded function gives the `Origin` of its caller while `model` runs: innermost module,
    innermost line of model code.
    """
    stack: list[tuple[str, str]] = [("", type(model).__name__)]
    handles = []
    for path, module in model.named_modules():
        entry = (path, type(module).__name__)
        handles.append(
            module.register_forward_pre_hook(
                lambda _m, _a, entry=entry: stack.append(entry), prepend=True
            )
        )
        handles.append(
            module.register_forward_hook(lambda _m, _a, _o: _drop(stack), always_call=True)
        )

    def locate() -> Origin:
        module, module_class = stack[-1]
        file, line = _user_frame(sys._getframe(1))
        return Origin(module=module, module_class=module_class, file=file, line=line)

    try:
        yield locate
    finally:
        for handle in handles:
            handle.remove()


def _drop(stack: list[tuple[str, str]]) -> None:
    if len(stack) > 1:
        stack.pop()
