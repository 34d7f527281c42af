"""Run every model type again at two workloads that its trace has not seen, and print where the sizes differ.

    python tools/retrace.py [--only TYPE ...]

Both phases; the trace's expressions, evaluated there, must give every size of every call, and the same operators. Exit
status 1 where one does not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import pool
import zoo
from coverage_record import proved, recorded


def differences(one: zoo.Specimen) -> list[str]:
    """What differs for one type, a line each; an error is a line too."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from oplib.errors import TraceModelError
    from tracer.analysis import trace_model
    from tracer.retrace import retrace, unseen

    with tempfile.TemporaryDirectory() as folder:
        try:
            found = trace_model(str(one.write(Path(folder))))
        except TraceModelError as error:
            return [error.message]
        try:
            return [
                f"{phase}: {line}"
                for phase, trace in found.traces.items()
                for workload in unseen(trace)
                for line in retrace(found.model, found.capture, trace, workload)
            ]
        except RuntimeError as error:  # what the model's code cannot do on sizes alone
            return [f"does not run there: {error}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="keys of types, such as causal/llama")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    rows = recorded()["rows"]
    asked = [
        one
        for key, one in zoo.known().items()
        if key in rows and proved(rows[key]) and (not options.only or key in options.only)
    ]
    bad = 0
    done = pool.results(differences, asked, jobs=options.jobs, seconds=120.0, memory_gb=8.0)
    for count, (one, found) in enumerate(done, 1):
        lines = [found.reason] if isinstance(found, pool.Lost) else found
        bad += bool(lines)
        for line in lines[:3]:
            print(f"{one.key}: {line}", flush=True)
        print(f"{count}/{len(asked)}", file=sys.stderr, end="\r")
    print(f"{len(asked) - bad} of {len(asked)} types hold at two unseen workloads in both phases")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
