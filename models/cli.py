"""`price-model`: from a saved op list, or any model path, to what serving it costs."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.choices import CHOICES
from oplib.command_line import Parser, Progress, check_backend_named, check_writable, run_command
from oplib.errors import InvalidInputError
from oplib.lowerings import LOWERINGS

if TYPE_CHECKING:
    from models.layout import Layout
    from models.outcome import Outcome
    from models.source import Source

Json = dict[str, Any]  # Any: an object that becomes JSON
LAYOUT = ("tp", "pp", "ep", "dp")
WORKLOAD = ("batch", "isl", "osl", "prefix")
CHANGEABLE = (  # beside sizes, in --versus
    "model",
    "system",
    "backend",
    "version",
    "mode",
    "modules",
)
MODES = ("sol", "sol_full", "empirical", "silicon", "hybrid")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = Parser(
        prog="price-model",
        description="Price serving a language model, op by op: latency, throughput, memory. Sizes with commas "
        "between them, of layouts and of workloads, are a sweep over all combinations.",
        epilog="exit status: 0 done, 1 no measurement answers in mode silicon, 2 misuse or bad input",
    )
    found.add_argument("model", help="saved report or op list, Hub id, folder, or a config.json")
    found.add_argument("--system", default="h200_sxm", help="GPU (default h200_sxm)")
    found.add_argument(
        "--backend",
        default="",
        help="whose measured tables: trtllm, vllm, sglang, torch (default none)",
    )
    found.add_argument(
        "--version",
        default="",
        help="version of the backend's tables (default: the one with most tables)",
    )
    found.add_argument(
        "--mode",
        type=str.lower,
        choices=MODES,
        default="hybrid",
        help="measured where possible (hybrid, default) or only (silicon), stated efficiency, speed of light",
    )
    found.add_argument(
        "--modules",
        choices=CHOICES,
        default="auto",
        help="whether attention modules are priced whole: where tables have them so (auto, default), always, or never, "
        "which is as the sum of their parts",
    )
    _add_sizes(found)
    found.add_argument(
        "--versus",
        metavar="CHANGES",
        help="compare with a second run: key=value,... of the options above, or another model",
    )
    found.add_argument("--data", metavar="FOLDER", type=Path, help="folder of measured tables")
    found.add_argument("--json", action="store_true", help="print the prices as JSON on stdout")
    found.add_argument(
        "--csv", metavar="FILE", type=Path, help="write the ops, or a row per run of a sweep"
    )
    found.add_argument("--html", metavar="FILE", type=Path, help="write a self-contained page")
    found.add_argument(
        "--trace",
        metavar="FILE",
        type=Path,
        help="write both passes for Perfetto or chrome://tracing",
    )
    found.add_argument(
        "--lowering",
        choices=LOWERINGS,
        help="how the model runs: as written, compiled by torch, or in an engine (default: as what the backend's "
        "tables measured, and without one in an engine)",
    )
    found.add_argument("--revision", help="branch, tag or commit of a Hub model")
    found.add_argument(
        "--trust-remote-code", action="store_true", help="run code that the model ships"
    )
    found.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return found


def _add_sizes(found: argparse.ArgumentParser) -> None:
    """The options of layouts and workloads."""
    for name, meaning in zip(
        LAYOUT,
        ("tensor parallel", "pipeline parallel", "expert parallel", "attention data parallel"),
        strict=True,
    ):
        found.add_argument(
            f"--{name}", metavar="N", type=_sizes, default=(1,), help=f"{meaning} size (default 1)"
        )
    for name, default, meaning in (
        ("batch", 1, "sequences on each data-parallel replica"),
        ("isl", 1024, "new tokens per sequence"),
        ("osl", 128, "tokens of each answer"),
        ("prefix", 0, "tokens per sequence that are cached before"),
    ):
        found.add_argument(
            f"--{name}",
            metavar="N",
            type=_sizes,
            default=(default,),
            help=f"{meaning} (default {default})",
        )
    found.add_argument(
        "--chunk",
        metavar="TOKENS",
        type=_size,
        default=0,
        help="most tokens of a context pass: longer prompts and batches are cut (default 0: all in one)",
    )


def _sizes(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) < 11 for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number, nor several separated by commas"
        )
    return tuple(dict.fromkeys(int(part) for part in parts))


def _size(text: str) -> int:
    """One whole number."""
    found = _sizes(text)
    if len(found) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is several numbers, and one is asked")
    return found[0]


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command("price-model", _run, argv)


def _run(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    check_writable(arguments.csv, arguments.html, arguments.trace)
    progress = Progress()
    try:
        outcomes = _price(arguments, progress)
        others = _price(_changed(arguments), progress) if arguments.versus is not None else []
    finally:
        progress.done()
    _write(outcomes, others, arguments)
    return 0


def _changed(arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments of the second run that `--versus` describes."""
    found = argparse.Namespace(**vars(arguments))
    if re.search(r"\b(system|backend)\s*=", arguments.versus):
        found.version = ""  # of the other tables the newest, unless it is named below
    for part in arguments.versus.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            name, value = "model", part.strip()
        if name in (*LAYOUT, *WORKLOAD):
            setattr(found, name, (_one_size(name, value),))
        elif name == "chunk":
            found.chunk = _one_size(name, value)
        elif name in CHANGEABLE:
            setattr(found, name, value.lower() if name == "mode" else value)
        else:
            raise InvalidInputError(
                f"--versus changes {name!r}, which is no option of a run.",
                f"It takes {', '.join((*CHANGEABLE, *LAYOUT, *WORKLOAD, 'chunk'))}.",
            )
    return found


def _one_size(name: str, value: str) -> int:
    try:
        return _size(value)
    except argparse.ArgumentTypeError as error:
        raise InvalidInputError(f"--versus {name}: {error}.") from error


def _price(arguments: argparse.Namespace, progress: Progress) -> list[Outcome]:
    from models.outcome import run
    from models.source import read_source
    from models.workload import grid
    from perfdb.database import PerfDatabase
    from perfdb.systems import load_system

    load_system(arguments.system)  # a wrong name is said before seconds of work
    version = _version(arguments)
    sizes = {name: getattr(arguments, name) for name in WORKLOAD}
    workload = grid(**sizes, chunk=arguments.chunk)
    db = PerfDatabase.load(
        system=arguments.system,
        backend=arguments.backend,
        version=version,
        mode=arguments.mode,
        data=arguments.data,
    )
    source = read_source(
        arguments.model,
        lambda path: _trace(path, arguments, progress),
        lowering=arguments.lowering or "",
    )
    progress("price")
    layouts = _layouts(arguments, source)
    return run(source, db, layouts, workload, modules=arguments.modules)


def _layouts(arguments: argparse.Namespace, source: Source) -> list[Layout]:
    """The layouts of every combination of sizes. A lone one that does not divide is an error; of several, those that
    do not are left out, which stderr says, unless none is left.
    """
    from models.layout import Layout
    from models.outcome import stages_of

    found, refused = [], []
    for sizes in product(*(getattr(arguments, name) for name in LAYOUT)):
        try:
            layout = Layout(**dict(zip(LAYOUT, sizes, strict=True)))
            stages_of(source, layout)
            found.append(layout)
        except InvalidInputError as error:
            words = " ".join(f"{name} {size}" for name, size in zip(LAYOUT, sizes, strict=True))
            refused.append((words, error))
    if not found:
        raise refused[0][1]
    for words, why in refused:
        print(f"price-model: {words} is left out: {why.message}", file=sys.stderr)
    return found


def _version(arguments: argparse.Namespace) -> str:
    """The version whose tables are asked first; a backend or a version without tables is refused before the work."""
    check_backend_named(arguments, "version", "data")
    if not arguments.backend:
        return ""
    from perfdb.foreign import serving_version

    return serving_version(
        arguments.system, arguments.backend, version=arguments.version, data=arguments.data
    )


def _trace(path: str, arguments: argparse.Namespace, progress: Progress) -> Json:
    progress("load torch and transformers")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from perfdb.backends import lowering_of
    from tracer.analysis import Options, analyse

    lowering = arguments.lowering or lowering_of(arguments.backend)
    report: Json = analyse(
        path,
        Options(system=arguments.system, lowering=lowering),
        progress,
        revision=arguments.revision,
        trust_remote_code=arguments.trust_remote_code,
    )
    return report


def _write(outcomes: list[Outcome], others: list[Outcome], arguments: argparse.Namespace) -> None:
    from models.compare import differences
    from models.outcome import reports

    found, second = (
        [r for outcome in runs for r in reports(outcome)] for runs in (outcomes, others)
    )
    for name, targets in (
        ("versus", second),
        ("trace", [arguments.trace] if arguments.trace else []),
    ):
        if targets and max(len(found), len(second)) > 1:
            raise InvalidInputError(
                f"--{name} is for one run, and this is a sweep of {max(len(found), len(second))}.",
                "Give one size of each.",
            )
    changed = differences(found[0], second[0]) if second else []
    if arguments.csv is not None:
        from models.report.sheet import render_csv

        arguments.csv.write_text(render_csv(found + second), encoding="utf-8")
    if arguments.trace is not None:
        from models.report.timeline import timeline

        text = json.dumps(timeline(found[0], outcomes[0].source.layers))
        arguments.trace.write_text(text, encoding="utf-8")
    if arguments.html is not None:
        from models.report.page import render_page

        page = render_page(outcomes, found, second, changed)
        arguments.html.write_text(page, encoding="utf-8")
    if arguments.json:
        shown: Any = found[0] if len(found) == 1 else found
        if second:
            shown = {**found[0], "versus": second[0], "differences": changed}
        print(json.dumps(shown, indent=1))
    else:
        _print(outcomes, found, second, changed)


def _print(
    outcomes: list[Outcome], found: list[Json], second: list[Json], changed: list[Json]
) -> None:
    from models.report.terminal import render_run, render_sweep, render_versus
    from oplib.console import Terminal

    console = Terminal()
    if second:
        render_versus(found[0], second[0], changed, console)
    elif len(found) > 1:
        render_sweep(found, console)
    else:
        render_run(found[0], outcomes[0].source, console)


if __name__ == "__main__":
    sys.exit(main())
