"""The command line of `collect-ops`, and how `--variant` is read, which `align-model` has too."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import oplib
from oplib.command_line import Parser
from oplib.errors import InvalidInputError

WHATS = ("time", "power", "check", "names")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = Parser(
        prog="collect-ops",
        description="Measure operations on this host's devices into a log, and write tables of it.",
        epilog="exit status: 0 done, 1 a whole group failed or the log is damaged, 2 misuse or bad input",
    )
    _add_cases(found)
    _add_run(found)
    _add_results(found)
    return found


def _add_cases(found: argparse.ArgumentParser) -> None:
    """What is measured."""
    found.add_argument("--version", action="version", version=f"%(prog)s {oplib.__version__}")
    found.add_argument("--out", metavar="DIR", type=Path, help="folder of the log")
    found.add_argument(
        "--ops",
        metavar="NAMES",
        help="op kinds, joined by commas: their grids over the shapes of models",
    )
    found.add_argument(
        "--cases", metavar="FILE", type=Path, help="measure a plan that trace-model wrote"
    )
    found.add_argument(
        "--examples", action="store_true", help="measure the small examples of every slot"
    )
    found.add_argument(
        "--dtypes",
        metavar="NAMES",
        default="",
        help="dtypes instead of the models' own, joined by commas",
    )
    found.add_argument(
        "--models",
        metavar="NAMES",
        default="",
        help="with --ops: shapes of these models only, parts of names joined by commas",
    )
    found.add_argument(
        "--what",
        choices=WHATS,
        default="time",
        help="time (default), time and power, correctness, kernel names",
    )
    found.add_argument(
        "--variant",
        metavar="SLOT=NAME",
        action="append",
        default=[],
        help="use this variant; NAME all: every one that can run",
    )
    found.add_argument(
        "--plugin",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="a package with more variants",
    )


def _add_run(found: argparse.ArgumentParser) -> None:
    """Where and for how long."""
    found.add_argument(
        "--device",
        default="",
        help="cpu, or GPUs by number: 0,1 (default: all); cpu,cpu is a group of two processes",
    )
    found.add_argument(
        "--cluster",
        metavar="ADDRESS",
        default="",
        help="over all GPUs of a Ray cluster: auto, local, or its address; --out is a folder that all nodes share",
    )
    found.add_argument(
        "--system",
        default="h200_sxm",
        help="GPU whose facts give bounds and guard rails (default h200_sxm)",
    )
    found.add_argument(
        "--limit", metavar="N", type=int, default=0, help="at most so many cases, spread over all"
    )
    found.add_argument(
        "--adaptive",
        action="store_true",
        help="of the grid, measure what the tables would be off most at, until --target is reached",
    )
    found.add_argument(
        "--target",
        metavar="PERCENT",
        type=float,
        default=5.0,
        help="with --adaptive: error that 90 %% of the grid is to be within (default 5)",
    )
    found.add_argument("--seed", type=int, default=0, help="of inputs and of the order of cases")
    found.add_argument(
        "--budget",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="stop giving out cases after so long",
    )
    found.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=60.0, help="for one case (default 60)"
    )
    found.add_argument(
        "--beside",
        metavar="N",
        type=int,
        default=0,
        help="processes on each GPU for what is compiled: one uses it, the others compile (default: up to 12 by cores)",
    )
    found.add_argument(
        "--resume",
        action="store_true",
        help="go on in a folder that has a log; what has a row is not repeated",
    )
    found.add_argument(
        "--retry-failed", action="store_true", help="with --resume: repeat rows that are not ok"
    )


def _add_results(found: argparse.ArgumentParser) -> None:
    """What is printed or written instead or afterwards."""
    found.add_argument("--list", action="store_true", help="print the cases and measure nothing")
    found.add_argument(
        "--dry-run",
        action="store_true",
        help="print how many cases there are and how long they take",
    )
    found.add_argument(
        "--kernels", action="store_true", help="list slots, variants and why some cannot run here"
    )
    found.add_argument(
        "--export", metavar="DIR", type=Path, help="write tables of the log in --out"
    )
    found.add_argument("--verify", action="store_true", help="check every row of the log in --out")
    found.add_argument(
        "--compare",
        metavar="DIR",
        type=Path,
        help="compare the log or the tables in --out with those of another run",
    )
    found.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    found.add_argument("--debug", action="store_true", help="show the traceback of an error")


def chosen_variants(texts: Iterable[str], *, example: str) -> dict[str, str]:
    """The variant that each slot is to use, of texts that say SLOT=NAME."""
    chosen = {}
    for text in texts:
        slot, equals, name = text.partition("=")
        if not equals:
            raise InvalidInputError(
                f"--variant is {text!r}.", f"It takes slot=name, such as {example}."
            )
        chosen[slot] = name
    return chosen
