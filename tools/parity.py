"""Write docs/parity.md: our op lists against the hand-written reference lists, each difference with its cause.

`--check` writes nothing: it exits 1 when the page is out of date, and 0 with a note when the page was made with other
versions, where it cannot tell. Without the reference data there is no answer: exit 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from parity_causes import explain
from parity_layouts import Split, split
from parity_lists import ours, reference
from parity_page import Model, Weights, made_with, render
from parity_sites import compare

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "parity.md"
SHARED = (ROOT.parent / "shared", ROOT / "shared")
MLA_PRODUCTS = "mla_bmm_perf.parquet"
Json = dict[str, Any]  # Any: parsed JSON


def load(path: Path) -> Any:  # parsed JSON
    return json.loads(path.read_text(encoding="utf-8"))


def single_gpu(lists: Json) -> dict[str, Json]:
    """The entries of one GPU, by model."""
    return {
        entry["model"]: entry
        for entry in lists["entries"]
        if all(size == 1 for size in entry["parallel"].values())
    }


def describe(
    name: str, report: Json, entry: Json, check: Json | None, *, cache_named: bool
) -> Model:
    """The comparison of one model."""
    layers = {layer["id"]: layer["indices"] for layer in report["layers"]}
    sites = compare(ours(report), reference(entry))
    held = report["conservation"]["weights"]
    return Model(
        name=name,
        sites=sites,
        differences=list(explain(sites, layers)),
        weights=Weights(
            real=report["parameters"],
            bytes_off=held["ops"] + held["primitives"] - held["model"],
            reference=None if check is None else round(check["peer_params"]),
            published_error=None if check is None else check.get("rel_err"),
        ),
        situation=report["situation"],
        encoder_ops=len(entry["encoder_ops"]),
        cache_named=cache_named,
    )


def trace_all(shared: Path) -> tuple[list[Model], list[Split]]:
    """Every published config, traced and compared where both sides know it: on one GPU, and under other layouts."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from oplib.errors import TraceModelError
    from tracer.analysis import Options, analyse

    lists = load(shared / "reference" / "op_lists.json")
    entries = single_gpu(lists)
    checks = {r["model"]: r for r in load(shared / "reference" / "weight_check.json")["rows"]}
    models: list[Model] = []
    splits: list[Split] = []
    for folder in sorted((shared / "model_configs").iterdir()):
        name = folder.name.replace("--", "/")
        print(name, file=sys.stderr)
        if name not in entries:
            models.append(Model(name=name, failure="the reference has no list for it"))
            continue
        try:
            report = analyse(str(folder), Options())
        except TraceModelError as error:
            models.append(Model(name=name, failure=error.message))
            continue
        named = any('"kv_cache_' in file.read_text("utf-8") for file in folder.glob("*.json"))
        models.append(describe(name, report, entries[name], checks.get(name), cache_named=named))
        others = (e for e in lists["entries"] if e["model"] == name and e is not entries[name])
        splits += [split(report, entry) for entry in others]
    return models, splits


def measured_types(shared: Path) -> tuple[str, ...]:
    """The storage types of the reference's tables of MLA products."""
    table = load(shared / "reference" / "perf_tables_h200.json")[MLA_PRODUCTS]
    return tuple(sorted({t for v in table.values() for t in v["axes"]["bmm_dtype"]["values"]}))


def tools(shared: Path) -> str:
    """The versions that a page depends on."""
    from tracer.analysis import versions

    peer = load(shared / "reference" / "op_lists.json")["peer"]["aiconfigurator_core"]
    own = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"aiconfigurator-core {peer}, {own}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit 1 on a stale page"
    )
    check = parser.parse_args().check
    shared = next((folder for folder in SHARED if (folder / "reference").is_dir()), None)
    if shared is None:
        print("no answer: the reference data (../shared/reference) is not here", file=sys.stderr)
        return 1
    old = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    here = tools(shared)
    if check and old and made_with(old) != here:
        print(f"not checked: made with {made_with(old)}, here is {here}", file=sys.stderr)
        return 0
    models, splits = trace_all(shared)
    text = render(here, models, measured_types(shared), splits)
    if check and text != old:
        print(f"{PAGE.name}: out of date, run: python tools/parity.py")
        return 1
    if not check:
        PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]
    sys.exit(main())
