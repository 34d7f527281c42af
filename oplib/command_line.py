"""What the commands share: errors as one line, progress on stderr, and a `--json` that holds for errors too."""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from oplib.errors import InvalidInputError, TraceModelError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are this project's errors: one line, and JSON where JSON was asked for."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise InvalidInputError(f"{message}.", f"See {self.prog} --help.")


class Progress:
    """One line on stderr that says the current step; silent where stderr is no terminal."""

    def __init__(self) -> None:
        self._status: Any = None  # a rich Status, which is imported only where it is shown

    def __call__(self, step: str) -> None:
        """Show a step."""
        if not sys.stderr.isatty():
            return
        if self._status is None:
            from rich.console import Console

            self._status = Console(stderr=True).status(step)
            self._status.start()
        self._status.update(step)

    def done(self) -> None:
        """Clear the line."""
        if self._status is not None:
            self._status.stop()
            self._status = None


def run_command(program: str, work: Callable[[list[str]], int], argv: list[str] | None) -> int:
    """The exit status of `work` on the arguments; an error is told and gives its own status."""
    argv = sys.argv[1:] if argv is None else argv
    as_json, debug = "--json" in argv, "--debug" in argv
    try:
        status = work(argv)
        sys.stdout.flush()
        return status
    except TraceModelError as error:
        return fail(program, error, as_json=as_json, debug=debug)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 - our own mistake: still one line, and no half-written answer
        if isinstance(error, BrokenPipeError) and _reader_gone():
            return 141
        hint = "" if debug else f"This is a mistake of {program}; --debug shows where."
        unexpected = TraceModelError(f"{type(error).__name__}: {error}", hint)
        unexpected.__cause__ = error
        return fail(program, unexpected, as_json=as_json, debug=debug)


def _reader_gone() -> bool:
    """Whether nobody reads the output any more, as behind `| head`; what is left in its buffer is dropped then."""
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in asked.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def fail(program: str, error: TraceModelError, *, as_json: bool, debug: bool) -> int:
    """Tell an error; returns its exit status."""
    if as_json:
        print(json.dumps({"error": error.to_json()}))
    print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
    if debug:
        traceback.print_exception(error)
    return error.exit_code


def check_backend_named(options: argparse.Namespace, *names: str) -> None:
    """Refuse options about measured tables (by the names that the parser gives them) where no backend is named."""
    if options.backend:
        return
    for name in names:
        if getattr(options, name):
            raise InvalidInputError(
                f"--{name.replace('_', '-')} is about measured tables, and no backend is named.",
                "Name one with --backend.",
            )


def check_writable(*targets: Path | None) -> None:
    """Refuse a file whose folder is not there, before the work whose result it takes."""
    for target in targets:
        if target is not None and not target.parent.is_dir():
            raise InvalidInputError(
                f"Cannot write {str(target)!r}: {str(target.parent)!r} is no folder.",
                "Create it first.",
            )
