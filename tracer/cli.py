"""`trace-model`: from any model path to a triage report and a symbolic op list."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import oplib
from oplib.command_line import Parser, Progress, check_backend_named, check_writable, run_command
from oplib.errors import InvalidInputError
from oplib.lowerings import LOWERINGS, USUAL

Json = dict[str, Any]  # Any: an object that becomes JSON
_SEVERITY = {"S1": 0, "S1-or-S2": 1, "S2": 1, "S3": 2}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = Parser(
        prog="trace-model",
        description="Trace a language model without weights or GPU, and say which of its operations are known.",
        epilog="exit status: 0 done, 1 --fail-on reached, 2 misuse or bad input",
    )
    found.add_argument("--version", action="version", version=f"%(prog)s {oplib.__version__}")
    found.add_argument("model", help="Hub id, folder with a config.json, or a config.json")
    found.add_argument("--json", action="store_true", help="print the report as JSON on stdout")
    found.add_argument(
        "--submodules",
        action="store_true",
        help="list the distinct parts of the decoder that can be measured on their own, and nothing else",
    )
    found.add_argument("--ops", metavar="FILE", type=Path, help="write the op list as JSON")
    found.add_argument("--html", metavar="FILE", type=Path, help="write a self-contained page")
    found.add_argument(
        "--lowering",
        choices=LOWERINGS,
        help="ops as written, compiled, or served (default: as the backend's tables measured them, and without one "
        "served)",
    )
    found.add_argument(
        "--system",
        default="h200_sxm",
        help="GPU for speed-of-light shares and of the tables (default h200_sxm)",
    )
    found.add_argument(
        "--backend", help="whose measured tables are asked: trtllm, vllm, sglang, torch"
    )
    found.add_argument(
        "--backend-version",
        metavar="VERSION",
        default="",
        help="version of these tables (default: the one with most tables)",
    )
    found.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        help="folder of tables, instead of ours and those of aiconfigurator-core",
    )
    found.add_argument(
        "--cases",
        metavar="FILE",
        type=Path,
        help="write the plan: what to measure so that the model is S1",
    )
    found.add_argument(
        "--workload",
        metavar="B,S,P",
        type=_workload,
        default=(16, 4096, 0),
        help="batch, new and cached tokens of the context pass (default 16,4096,0); generation follows",
    )
    found.add_argument(
        "--fail-on", choices=("S2", "S3"), help="exit 1 when the situation is this or worse"
    )
    found.add_argument("--revision", help="branch, tag or commit of a Hub model")
    found.add_argument(
        "--trust-remote-code", action="store_true", help="run code that the model ships"
    )
    found.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return found


def _workload(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(p.strip().isdecimal() for p in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not three whole numbers: batch, new tokens, cached tokens, such as 16,4096,0"
        )
    b, s, p = (int(part) for part in parts)
    if b < 1 or s < 1 or max(b, s, p) > 2**31:
        raise argparse.ArgumentTypeError(
            f"{text!r}: batch and new tokens are at least 1, none above 2**31"
        )
    return b, s, p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command("trace-model", _run, argv)


def _run(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    if arguments.submodules:
        return _list_submodules(arguments)
    report = _analyse(arguments)
    _write(report, arguments)
    worst = _SEVERITY[report["situation"]]
    return 1 if arguments.fail_on and worst >= _SEVERITY[arguments.fail_on] else 0


def _analyse(arguments: argparse.Namespace) -> Json:
    from perfdb.systems import load_system

    load_system(arguments.system)  # a wrong name is said before seconds of work
    _check_tables(arguments)
    check_writable(arguments.ops, arguments.html, arguments.cases)
    progress = Progress()
    try:
        return _report(arguments, progress)
    finally:
        progress.done()


def _check_tables(arguments: argparse.Namespace) -> None:
    """Whether the tables that were asked for are there."""
    check_backend_named(arguments, "backend_version", "data", "cases")
    if arguments.backend is not None:
        from tracer.coverage import open_database

        open_database(
            arguments.system,
            arguments.backend,
            version=arguments.backend_version,
            data=arguments.data,
        )


def _add_coverage(report: Json, arguments: argparse.Namespace, progress: Progress) -> None:
    """Ask the tables which of the report's ops they hold."""
    import time

    from tracer import coverage

    progress("ask the tables")
    start = time.perf_counter()
    db = coverage.open_database(
        arguments.system, arguments.backend, version=arguments.backend_version, data=arguments.data
    )
    report["coverage"] = coverage.check(report, db)
    report["situation"] = coverage.situation(report)
    report["timing_s"]["coverage"] = round(time.perf_counter() - start, 4)


def _report(arguments: argparse.Namespace, progress: Progress) -> Json:
    progress("load torch and transformers")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from models.known import is_known, relatives
    from models.signature import signature
    from perfdb.backends import lowering_of
    from tracer.analysis import Options, analyse
    from tracer.triage import checklist

    b, s, p = arguments.workload
    options = Options(
        lowering=arguments.lowering or lowering_of(arguments.backend or ""),
        system=arguments.system,
        b=b,
        s=s,
        p=p,
        with_graphs=arguments.html is not None,
    )
    report = analyse(
        arguments.model,
        options,
        progress,
        revision=arguments.revision,
        trust_remote_code=arguments.trust_remote_code,
    )
    report["known_architecture"] = is_known(report["architecture"])
    report["relatives"] = relatives(signature(report), architecture=report["architecture"])
    if arguments.backend is not None:
        _add_coverage(report, arguments, progress)
    report["checklist"] = checklist(report)
    return report


def _list_submodules(arguments: argparse.Namespace) -> int:
    """Print the sub-modules; returns the exit status."""
    for name in ("ops", "html", "fail_on", "backend", "cases", "data"):
        if getattr(arguments, name) is not None:
            raise InvalidInputError(
                f"--submodules makes no report, so --{name.replace('_', '-')} has nothing to take.",
                "Leave one of them out.",
            )
    progress, lowering = Progress(), arguments.lowering or USUAL
    try:
        progress("load torch and transformers")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        from tracer.submodules import submodules

        found = submodules(
            arguments.model,
            revision=arguments.revision,
            trust_remote_code=arguments.trust_remote_code,
            progress=progress,
        )
        listed = [part.to_json(lowering) for part in found]
    finally:
        progress.done()
    if arguments.json:
        found_json = {
            "model": arguments.model,
            "lowering": lowering,
            "submodules": listed,
        }
        print(json.dumps(found_json, indent=1))
    else:
        from oplib.console import Terminal
        from tracer.report.submodules import render_submodules

        render_submodules(listed, Terminal())
    return 0


def _write(report: Json, arguments: argparse.Namespace) -> None:
    if arguments.ops is not None:
        arguments.ops.write_text(json.dumps(report["op_list"], indent=1) + "\n", encoding="utf-8")
    if arguments.cases is not None:
        from tracer.coverage import plan

        arguments.cases.write_text(plan(report).to_text(), encoding="utf-8")
    if arguments.html is not None:
        from tracer.report.html import render_html

        arguments.html.write_text(render_html(report), encoding="utf-8")
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        from oplib.console import Terminal
        from tracer.report.terminal import render_terminal

        render_terminal(report, Terminal())


if __name__ == "__main__":
    sys.exit(main())
