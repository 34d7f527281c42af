"""`align-model`: real sub-modules of a model, compiled and captured, beside the ops that stand for them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import oplib
from collector.arguments import chosen_variants
from collector.turn import Turn
from oplib.command_line import Parser, Progress, check_writable, run_command

if TYPE_CHECKING:
    from collector.align.workloads import Workload

Json = dict[str, Any]  # Any: an object that becomes JSON
ROLES = ("layer", "attention", "moe", "mlp", "mixer")
WORKLOADS = (
    "1x512",
    "1x2048",
    "4x2048",
    "1x8192",
    "1x1x4096",
    "16x1x1024",
    "16x1x4096",
    "64x1x4096",
)
CPU_WORKLOADS = ("1x16", "2x1x16")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = Parser(
        prog="align-model",
        description="Run sub-modules of a model on this device, compiled and captured in a CUDA graph, and set what "
        "they take beside the prices of their ops and beside the same kernels on their own.",
        epilog="exit status: 0 done, 1 no sub-module could be measured, 2 misuse or bad input",
    )
    found.add_argument("--version", action="version", version=f"%(prog)s {oplib.__version__}")
    found.add_argument("model", help="Hub id, folder, or a config.json")
    found.add_argument(
        "--submodule", metavar="ROLE_OR_NAME", nargs="+", default=[*ROLES],
        help=f"parts: roles ({', '.join(ROLES)}, norm), paths, or their last names (default: all roles but norm)",
    )  # fmt: skip
    found.add_argument(
        "--whole", action="store_true", help="the whole model instead: a prompt and one decode step"
    )
    found.add_argument(
        "--layers",
        metavar="N",
        type=int,
        default=0,
        help="with --whole: keep so many layers (default: what fits)",
    )
    found.add_argument(
        "--one-graph",
        action="store_true",
        help="with --whole: compile the model in one graph (default: each layer by itself)",
    )
    found.add_argument("--phase", choices=("context", "generation", "both"), default="both")
    found.add_argument(
        "--workloads", metavar="BxSxP", nargs="+", default=[],
        help="sequences, new tokens each, cached tokens each; one new token over cached ones is generation",
    )  # fmt: skip
    found.add_argument(
        "--variant",
        metavar="SLOT=NAME",
        action="append",
        default=[],
        help="use this kernel, bound and alone",
    )
    _add_machine(found)
    _add_results(found)
    return found


def _add_machine(found: argparse.ArgumentParser) -> None:
    """Where it runs and which tables it is compared with."""
    found.add_argument(
        "--device", default="", help="cpu or cuda (default: a GPU where there is one)"
    )
    found.add_argument(
        "--system", default="", help="GPU whose tables price (default: the device's own)"
    )
    found.add_argument("--data", metavar="DIR", type=Path, help="folder of measured tables")
    found.add_argument(
        "--mode", choices=("silicon", "hybrid"), default="hybrid",
        help="prices of tables alone, or with a stated efficiency where they lack an op (default)",
    )  # fmt: skip
    found.add_argument(
        "--seconds", metavar="S", type=float, default=0.0, help="samples of one row take at most"
    )
    found.add_argument("--seed", type=int, default=0, help="of weights and inputs")


def _add_results(found: argparse.ArgumentParser) -> None:
    """What is printed or written."""
    found.add_argument(
        "--out", metavar="DIR", type=Path, help="folder of the log, which a second run goes on from"
    )
    found.add_argument("--html", metavar="FILE", type=Path, help="write a self-contained page")
    found.add_argument("--json", action="store_true", help="print the rows as JSON on stdout")
    found.add_argument(
        "--dry-run", action="store_true", help="print what would run and what it is priced at"
    )
    found.add_argument(
        "--compile-only",
        action="store_true",
        help="compile what a later run measures, and time nothing",
    )
    found.add_argument("--debug", action="store_true", help="show the traceback of an error")


def main(argv: list[str] | None = None, *, turn: Turn | None = None) -> int:
    """Run the command; the exit status. `turn` is held while the device is in use, where several processes share it."""
    held = turn or Turn()
    return run_command("align-model", lambda given: _run(parser().parse_args(given), held), argv)


def _run(options: argparse.Namespace, turn: Turn) -> int:
    from collector.align.workloads import chosen_phases, parse_workload

    check_writable(options.html)
    variants = chosen_variants(options.variant, example="context_attention=flash")
    texts = options.workloads or (WORKLOADS if _on_gpu(options) else CPU_WORKLOADS)
    pairs = chosen_phases(options.phase, [parse_workload(text) for text in texts])
    progress = Progress()
    try:
        rows = _rows(options, variants, pairs, progress, turn)
    finally:
        progress.done()
    _tell(options, rows)
    return (
        0
        if options.dry_run or options.compile_only or any(row["measured_ms"] for row in rows)
        else 1
    )


def _on_gpu(options: argparse.Namespace) -> bool:
    """Whether sizes of a server are worth asking for; a dry run prices them on any machine."""
    import torch

    return bool(options.dry_run or options.device not in ("", "cpu") or torch.cuda.is_available())


def _rows(
    options: argparse.Namespace,
    variants: dict[str, str],
    pairs: list[tuple[str, Workload]],
    progress: Progress,
    turn: Turn,
) -> list[Json]:
    progress("load torch and transformers")
    from collector.align.session import Session

    session = Session(options, variants, progress, turn)
    session.prepare(pairs)
    return session.whole(pairs) if options.whole else session.parts(pairs)


def _tell(options: argparse.Namespace, rows: list[Json]) -> None:
    if options.html is not None:
        from collector.align.page import render_page

        options.html.write_text(render_page(rows), encoding="utf-8")
    if options.json:
        print(json.dumps(rows))
        return
    from collector.align.terminal import render
    from oplib.console import Terminal

    render(rows, Terminal(), dry=options.dry_run)


if __name__ == "__main__":
    sys.exit(main())
