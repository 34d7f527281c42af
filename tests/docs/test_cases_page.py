"""docs/cases.md describes plans exactly: its fields are those of a plan, and its Python runs."""

import json
import re
from pathlib import Path

from oplib.case import Case, Plan

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cases.md").read_text(encoding="utf-8")
CASE = Case(op="gemm", params={"n": 8, "k": 4, "dtype": "bfloat16"}, dims={"m": 2}, bound_ms=0.5)
PLAN = Plan(system="h200_sxm", backend="toy", version="1.0", model="some/model", cases=(CASE,))


def fields(heading):
    table = PAGE.split(f"| {heading} |")[1].split("\n\n")[0]
    return re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)


def test_the_fields_are_those_of_a_plan():
    header, case = (json.loads(line) for line in PLAN.to_text().splitlines())
    assert fields("field of the header") == list(header)
    assert fields("field of a case") == list(case)


def test_the_snippet_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "plan.jsonl").write_text(PLAN.to_text(), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(snippet, "cases.md", "exec"), {})
    assert capsys.readouterr().out.startswith(f"{CASE.case_id} gemm")
