"""The process behind tools/fuzz.py: reads one case a line on stdin, judges it, and answers with one line on stdout.

An allocation beyond the bound fails inside (RLIMIT_AS), where it becomes a verdict; the time bound is the parent's.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

Json = dict[str, Any]  # Any: parsed JSON
_OUT_OF_MEMORY = ("MemoryError", "can't allocate memory", "Cannot allocate memory")


def judge(config: Json) -> Json:
    """The verdict on one config: exact, error (one clear error), or the way in which it is bad."""
    from oplib.errors import TraceModelError
    from tracer import analysis

    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
        try:
            found = analysis.analyse(folder, analysis.Options())
            json.dumps(found)
        except TraceModelError as error:
            text = " ".join(str(error).replace(folder, "<folder>").split())
            if any(sign in text for sign in _OUT_OF_MEMORY):
                return {"verdict": "memory", "detail": text}
            if not error.message:
                return {"verdict": "silent", "detail": type(error).__name__}
            return {"verdict": "error", "kind": error.kind, "detail": text}
        except MemoryError:
            return {"verdict": "memory", "detail": "MemoryError"}
        except BaseException as error:  # noqa: BLE001 - what escapes is the finding
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            said = " ".join(str(error).replace(folder, "<folder>").split())[:300]
            return {"verdict": "traceback", "detail": f"{type(error).__name__} at {where}: {said}"}
    return {
        "verdict": "exact" if found["conservation"]["exact"] else "inexact",
        "detail": found["situation"] + (" full depth" if found["full_depth"] else ""),
    }


def main() -> int:
    """Answer until stdin ends. The argument is the memory bound in bytes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a model prints is no answer
    import torch

    torch.set_num_threads(1)
    from tracer import analysis  # noqa: F401 - imported before the clock of a case starts

    bound = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        start = time.process_time()
        found = judge(json.loads(line))
        found["seconds"] = round(time.process_time() - start, 3)
        found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps(found), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
