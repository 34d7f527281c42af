"""Write signatures into `architectures.toml` from reports that `trace-model MODEL --json` printed.

Usage: python -m models.learn REPORT.json ...

All reports of one architecture belong in one call: what they share becomes its signature, the rest is optional.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.known import FILE, Architecture, parse_architectures
from models.signature import signature
from oplib.errors import OpListFormatError, TraceModelError
from oplib.oplist import SCHEMA, Layer, OpList, read_report

_NEEDED = ("architecture", "model_type", "model", "layers", "op_list", "versions")
_HEADER = """\
# Architectures known so far. Names come from `source`; signatures are written by `python -m models.learn` from traces.
# signature: features of every config traced; optional: of some; both empty where none was traced.
"""


def learn(
    known: Mapping[str, Architecture],
    reports: Iterable[dict[str, Any]],
    *,
    default_config: bool = False,
) -> list[Architecture]:
    """The known architectures with the signatures of the reports, in order of their names.

    With `default_config` the reports are of configs that transformers makes up, and the records say so.
    """
    found = dict(known)
    groups: dict[str, list[dict[str, Any]]] = {}  # Any: reports, decoded from JSON
    for report in reports:
        groups.setdefault(report["architecture"], []).append(report)
    for name, group in groups.items():
        blank = Architecture(
            architecture=name,
            model_type="",
            family="",
            examples=(),
            signature=(),
            optional=(),
            traced_with="",
            source="",
        )
        found[name] = _described(found.get(name, blank), group, default_config=default_config)
    return [found[name] for name in sorted(found)]


def _described(
    record: Architecture, reports: Sequence[dict[str, Any]], *, default_config: bool
) -> Architecture:
    signatures = [signature(report) for report in reports]
    shared = frozenset.intersection(*signatures)
    versions = {f"transformers {report['versions']['transformers']}" for report in reports}
    examples = sorted({model_name(report["model"]) for report in reports})
    configs = ", default config" if default_config else ""
    return replace(
        record,
        model_type=reports[0]["model_type"],
        examples=record.examples if default_config else tuple(examples),
        signature=tuple(sorted(shared)),
        optional=tuple(sorted(frozenset.union(*signatures) - shared)),
        traced_with=", ".join(sorted(versions)) + configs,
    )


def model_name(model: str) -> str:
    """A Hub id as it is; of a local path the folder's name, with `--` for the slash of a Hub id."""
    path = Path(model)
    if path.name == "config.json":
        path = path.parent
    return path.name.replace("--", "/", 1) if "--" in path.name or path.is_absolute() else model


def check_report(report: dict[str, Any], file: str) -> dict[str, Any]:
    """The report, if it is one of this schema with the fields a signature needs."""
    missing = [name for name in _NEEDED if name not in report]
    if missing or report.get("schema") != SCHEMA:
        raise OpListFormatError(
            f"{file} is no report of schema {SCHEMA}: it lacks {', '.join(missing) or 'the schema'}.",
            "Write it with trace-model MODEL --json.",
        )
    OpList.from_json(report)
    for layer in report["layers"]:
        Layer.from_json(layer)
    return report


def to_toml(sources: Mapping[str, Mapping[str, str]], records: Iterable[Architecture]) -> str:
    """The text of an architectures file."""
    lines = [_HEADER]
    for key, source in sources.items():
        lines += [f"[sources.{key}]", *(f"{k} = {_text(v)}" for k, v in source.items()), ""]
    for record in records:
        lines += [
            "[[architecture]]",
            f"architecture = {_text(record.architecture)}",
            f"model_type = {_text(record.model_type)}",
            f"family = {_text(record.family)}",
            f"examples = {_list(record.examples)}",
            f"signature = {_list(record.signature)}",
            f"optional = {_list(record.optional)}",
            f"traced_with = {_text(record.traced_with)}",
            f"source = {_text(record.source)}",
            "",
        ]
    return "\n".join(lines)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=True)  # a JSON text is a TOML basic string


def _list(values: Sequence[str]) -> str:
    if len(values) < 2:
        return f"[{', '.join(map(_text, values))}]"
    return "\n".join(["[", *(f"    {_text(value)}," for value in values), "]"])


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.learn", description=__doc__)
    parser.add_argument("reports", nargs="+", help="files that trace-model --json wrote")
    parser.add_argument(
        "--default-config", action="store_true", help="the configs are defaults, not published"
    )
    parser.add_argument("--file", type=Path, default=Path(__file__).with_name(FILE))
    arguments = parser.parse_args(argv)
    try:
        reports = [check_report(read_report(path), path) for path in arguments.reports]
    except TraceModelError as error:
        print(f"models.learn: {error}", file=sys.stderr)
        return error.exit_code
    data = tomllib.loads(arguments.file.read_text(encoding="utf-8"))
    known = parse_architectures(data)
    records = learn(known, reports, default_config=arguments.default_config)
    arguments.file.write_text(to_toml(data["sources"], records), encoding="utf-8")
    traced = len({report["architecture"] for report in reports})
    print(f"{arguments.file.name}: {traced} described, {len(records)} known", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
