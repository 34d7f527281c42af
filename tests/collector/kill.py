"""The kill test: a run over cases of half a millisecond, killed at random moments and resumed until it is whole.

python tests/collector/kill.py KILLS [SEED] prints how many rows were lost or repeated.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from collector.log import Segment, read_log  # noqa: E402
from collector.runner import Limits, Runner  # noqa: E402
from collector.worker import Answer, Options, Task, die_with_parent, now  # noqa: E402
from oplib.case import Case  # noqa: E402

DIES, HANGS, RESTARTS, DIES_LATE = (1_000_000 + i for i in range(4))  # values of m that misbehave


def tasks(sizes: list[int]) -> list[Task]:
    shape = {"n": 16, "k": 8, "dtype": "float32"}
    return [Task(case=Case(op="gemm", params=shape, dims={"m": m}), variant="quick") for m in sizes]


def serve(connection, options: Options) -> None:
    """A worker without torch."""
    die_with_parent()
    connection.send(Answer(phase="hello", row={"what": "provenance", "date": now()}))
    with contextlib.suppress(EOFError):
        while window := connection.recv():
            for place in range(len(window)):
                connection.send(Answer(phase="preparing", place=place))
                if window[place].case.dims["m"] == DIES:
                    os.kill(os.getpid(), signal.SIGKILL)
            connection.send(Answer(phase="sampling"))
            # cases of a window become final in another order than they were given in
            for place in sorted(range(len(window)), key=lambda i: window[i].case.case_id):
                if not sampled(connection, window[place], place):
                    return


def sampled(connection, task: Task, place: int) -> bool:
    """Half a millisecond, and the row; whether the process goes on."""
    m = task.case.dims["m"]
    if m == DIES_LATE:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60 if m == HANGS else 0.0005)
    row = {
        "what": task.what, "variant": task.variant, "case_id": task.case.case_id,
        "op": "gemm", "params": dict(task.case.params), "dims": dict(task.case.dims),
        "status": "ok", "date": now(),
    }  # fmt: skip
    connection.send(Answer(row=row, place=place, restart=m == RESTARTS))
    return m != RESTARTS


def never(connection, options: Options) -> None:
    """A worker that ends at once."""
    sys.exit(3)


def run(out: Path, count: int) -> None:
    """Measure what has no row yet."""
    done = {row["case_id"] for row in read_log(out)[0] if "case_id" in row}
    left = [t for t in tasks(list(range(1, count + 1))) if t.case.case_id not in done]
    segment = Segment(out)
    Runner(segment, [Options(), Options()], Limits(), serving=serve).run(left)
    segment.close()


def check(folder: Path, *, kills: int, seed: int, cases: int) -> dict[str, int]:
    """Start, kill after at least one new row, and so on; then let one run end."""
    out, chance, met = folder / "log", random.Random(seed), 0
    start = [sys.executable, __file__, "run", str(out), str(cases)]
    for _ in range(kills):
        process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = size(out)
        while process.poll() is None and size(out) == before:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.05)
        if process.poll() is None:
            met += 1
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(start, check=True)
    rows, faults = read_log(out)
    found = [row["case_id"] for row in rows if "case_id" in row]
    wanted = {task.case.case_id for task in tasks(list(range(1, cases + 1)))}
    return {
        "kills": met,
        "rows": len(found),
        "lost": len(wanted - set(found)),
        "repeated": len(found) - len(set(found)),
        "torn": sum(fault.torn for fault in faults),
        "damaged": sum(not fault.torn for fault in faults),
    }


def size(out: Path) -> int:
    return sum(path.stat().st_size for path in out.glob("*.log")) if out.exists() else 0


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        chosen = int(sys.argv[2]) if len(sys.argv) > 2 else 0
        with tempfile.TemporaryDirectory() as name:
            print(check(Path(name), kills=int(sys.argv[1]), seed=chosen, cases=20_000))
