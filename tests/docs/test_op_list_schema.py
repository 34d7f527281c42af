"""docs/op-list.md describes reports exactly: every field is documented, every documented field occurs."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from oplib.errors import OpListFormatError
from oplib.op import kind
from oplib.symbols import parse_expr
from tests.perfdb import gemm_table, latent_ops
from tests.tracer import small_models
from tracer import analysis, cli
from tracer.match import match

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "op-list.md"
HEADER = ["field", "type", "unit", "meaning", "example"]
EXAMPLE = ROOT / "examples" / "tiny-moe"

PLAIN: dict[str, type | tuple[type, ...]] = {
    "text": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "null": type(None),
}


@dataclass
class Schema:
    """The tables of the page: type of each field by its path, and the paths a report was seen to have."""

    objects: dict[str, dict[str, tuple[str, str]]]
    faults: dict[str, str] = field(default_factory=dict)  # by path, the first of each
    seen: set[str] = field(default_factory=set)

    def check(self, value: Any, type_: str, path: str) -> None:
        """Hold `value` to its type, and what lies in it to the tables."""
        if type_.startswith("list of "):
            self._expect(isinstance(value, list), value, type_, path)
            for item in value if isinstance(value, list) else ():
                self.check(item, type_.removeprefix("list of "), f"{path}[]")
        elif type_.startswith("map of "):
            self._expect(isinstance(value, dict), value, type_, path)
            for item in value.values() if isinstance(value, dict) else ():
                self.check(item, type_.removeprefix("map of "), f"{path}{{}}")
        else:
            self._expect(any(fits(value, t) for t in type_.split(" or ")), value, type_, path)
        if type_ == "object" and isinstance(value, dict):
            self._object(value, path)

    def _object(self, value: dict[str, Any], path: str) -> None:
        fields = self.objects.get(path)
        if fields is None:
            self.faults.setdefault(path, "the page has no table for this object")
            return
        for name in value.keys() - fields.keys():
            self.faults.setdefault(f"{path}.{name}", "not on the page")
        for name, (type_, _) in fields.items():
            where = f"{path}.{name}".lstrip(".")
            if name in value:
                self.seen.add(where)
                self.check(value[name], type_.removesuffix(", optional"), where)
            elif not type_.endswith(", optional"):
                self.faults.setdefault(where, "on the page, not in the report")

    def _expect(self, holds: bool, value: Any, type_: str, path: str) -> None:
        if not holds:
            self.faults.setdefault(path, f"{value!r:.80} is not {type_}")


def fits(value: Any, type_: str) -> bool:
    """Whether `value` is of a plain type of the page; a boolean is no number."""
    if type_ == "expression":
        if not isinstance(value, str | int) or isinstance(value, bool):
            return False
        try:
            parse_expr(value)
        except OpListFormatError:
            return False
        return True
    if isinstance(value, bool):
        return type_ == "boolean"
    return isinstance(value, PLAIN[type_])


def read_page() -> Schema:
    """The tables, by the path in the heading above them; `<name>` becomes `{}`."""
    objects: dict[str, dict[str, tuple[str, str]]] = {}
    path = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            named = re.search(r"`([^`]+)`", line)
            path = re.sub(r"\.<\w+>", "{}", named[1]) if named else ""
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if cells == HEADER or set(cells[0]) == {"-"}:
                objects.setdefault(path, {})
            else:
                name, type_, _, _, example = cells
                assert name.strip("`") not in objects[path], f"{path}.{name} has two rows"
                objects[path][name.strip("`")] = (type_, example.strip("`"))
    return Schema(objects=objects)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `--json` prints for the example: as it is, with a matcher missing (S3) and graphs, and against tables of
    products and of modules; a model with idle parameters.
    """
    found = []
    folder = tmp_path_factory.mktemp("reports")
    without = functools.partial(match, without=("gated_delta_rule",))
    runs = (
        (match, ["--ops", str(folder / "ops.json")]),
        (without, ["--html", str(folder / "page.html")]),
        (match, ["--backend", "toy", "--data", str(folder)]),
    )
    gemm_table.write(folder)
    latent_ops.write_modules(folder, num_heads=16, q_lora_rank=0, v_head_dim=64)  # the example's
    for matching, more in runs:
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.setattr(analysis, "match", matching)
            assert cli.main([str(EXAMPLE), "--json", *more]) == 0
        found.append(json.loads(printed.getvalue()))
    found.append(
        analysis.analyse(small_models.write(small_models.DECODER_ALONE), analysis.Options())
    )
    found[0]["ops_file"] = json.loads((folder / "ops.json").read_text(encoding="utf-8"))
    return found


def test_page_has_tables() -> None:
    """The reader below finds the tables and every type on them is one it knows."""
    schema = read_page()
    assert len(schema.objects) > 15
    for path, fields in schema.objects.items():
        for name, (type_, _) in fields.items():
            plain = re.sub(r"(list|map) of ", "", type_.removesuffix(", optional"))
            for part in plain.split(" or "):
                assert part in PLAIN or part == "expression", (
                    f"{path}.{name} has the type {type_!r}"
                )


def test_examples_have_their_type() -> None:
    """An example is JSON of the documented type."""
    schema = read_page()
    for path, fields in schema.objects.items():
        for name, (type_, example) in fields.items():
            value = json.loads(example)
            if value not in ([], {}) and type_ != "object":
                schema.check(value, type_.removesuffix(", optional"), f"{path}.{name}")
    assert not schema.faults


@pytest.mark.slow
def test_reports_and_page_agree(reports: list[dict[str, Any]]) -> None:
    """A field that the page lacks fails, and so does one that no report has."""
    schema = read_page()
    ops_file = reports[0].pop("ops_file")
    assert [r["situation"] for r in reports] == ["S1-or-S2", "S3", "S2", "S1-or-S2"]
    for report in reports:
        schema.check(report, "object", "")
    assert not schema.faults
    documented = {
        f"{path}.{name}".lstrip(".") for path, fields in schema.objects.items() for name in fields
    }
    assert not documented - schema.seen, "documented, in no report"
    assert ops_file == reports[0]["op_list"]
    for ops in ops_file["phases"].values():
        for op in ops:
            names = {param.name for param in kind(op["op"]).params}
            assert op["params"].keys() <= names
            assert op["dims"].keys() <= {*kind(op["op"]).dims, *kind(op["op"]).dim_params}


@pytest.mark.slow
def test_page_snippets_run(
    reports: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The Python on the page runs as it stands, and both readers agree on the work of a context pass."""
    (tmp_path / "ops.json").write_text(json.dumps(reports[0]["op_list"]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), {})
    plain, ours = capsys.readouterr().out.splitlines()
    total = re.search(r"flops=(\d+)", ours)
    assert total
    assert plain == f"{float(total[1]):.4g} FLOPs"
