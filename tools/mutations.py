"""Write docs/mutations.md: each unknown step in each supported model, and what triage says of it. Takes minutes.

The cases and what they must show are those of tests/tracer/test_mutants.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
<!-- Written by tools/mutations.py -->
# Unknown steps in supported models

Each row puts one unknown step into one class of a supported small model (`tests/tracer/mutants.py`) and traces it.
"Flagged" means: situation S3, and in both phases exactly this primitive at exactly this line. "Rest" means:
conservation is exact and every other op is what it is without the step.

| model | place | step | primitive | source | flagged | rest |
|---|---|---|---|---|---|---|
"""


def rows() -> list[str]:
    """A row per case."""
    from tests.tracer import mutants, test_mutants

    found = []
    for model, place, step in mutants.cases():
        print(f"{model}: {step} in {place}", file=sys.stderr)
        report = test_mutants.changed(model, place, step)
        flagged = test_mutants.flagged(report, step)
        rest = report["conservation"]["exact"] and (
            test_mutants.known(report) == test_mutants.unchanged(model)
        )
        source = f"mutants.py:{mutants.line_of(step)}"
        cells = (
            model,
            place,
            step,
            f"`{mutants.STEPS[step][0]}`",
            source,
            *map(_said, (flagged, rest)),
        )
        found.append(f"| {' | '.join(cells)} |")
    return found


def _said(holds: bool) -> str:
    return "yes" if holds else "**no**"


def main() -> int:
    lines = rows()
    text = HEAD + "\n".join(lines) + "\n"
    (ROOT / "docs" / "mutations.md").write_text(text, encoding="utf-8")
    return int(any("**no**" in line for line in lines))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path[:0] = [str(ROOT)]
    sys.exit(main())
