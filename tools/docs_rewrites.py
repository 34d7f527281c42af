"""docs/rewrites.md: every rewrite in the order in which they run, with the lowerings it takes part in."""

from __future__ import annotations

import inspect
import sys

from oplib.lowerings import LOWERINGS
from tracer.rewrite import rewrites

HEAD = """\
# Lowerings and rewrites

A lowering is an ordered list of rewrites from the ops as written to the ops as run. Choose one with `--lowering`.
A rewrite lists its name under `rewrites` of each op it made or changed, and of the report when it fired at all."""


def render() -> str:
    """The page."""
    lines = [HEAD, "", "| lowering | meaning | rewrites, in order |", "|---|---|---|"]
    for lowering, meaning in LOWERINGS.items():
        names = ", ".join(f"[{r.name}](#{r.name})" for r in rewrites(lowering)) or "none"
        lines.append(f"| `{lowering}` | {meaning} | {names} |")
    every = {r.name: r for lowering in LOWERINGS for r in rewrites(lowering)}
    for rule in sorted(every.values(), key=lambda r: (r.order, r.name)):
        module = sys.modules[rule.apply.__module__]
        file = rule.apply.__module__.replace(".", "/") + ".py"
        lines += ["", f"## {rule.name}", ""]
        lines += [
            f"{', '.join(f'`{x}`' for x in rule.lowerings)}; order {rule.order}; `{file}`",
            "",
        ]
        lines += [inspect.getdoc(module) or "", "", f"In short: {inspect.getdoc(rule.apply)}"]
    return "\n".join(lines) + "\n"
