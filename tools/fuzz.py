"""Change configs at random and trace them: each must trace exactly or end in one clear error, within time and memory.

    python tools/fuzz.py --cases 1000 --seed 0 --out build/fuzz

The folder holds `results.jsonl`, one line a case with its processor seconds, so a run that was stopped goes on where it
was; `summary.json`; and `bad/<case>.json`, a config for each bad case with the changes and fields that it does not need
left out. A benign change must trace exactly: an error there is bad too. Exit status 1 if any case is bad.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuzz_configs import Change, Config, apply, at, bases, case, text_path

ROOT = Path(__file__).resolve().parent.parent
CASES_PER_WORKER = 400  # then a fresh process: what a long one gathers is no finding about a case
SMALLER_TRIES = 60
Json = dict[str, Any]  # Any: parsed JSON


class Worker:
    """A process that judges cases one by one, and is replaced when it hangs, dies or gets old."""

    def __init__(self, timeout_s: float, memory_bytes: int) -> None:
        self.timeout_s, self.memory_bytes = timeout_s, memory_bytes
        self.process: subprocess.Popen[str] | None = None
        self.judged = 0

    def judge(self, config: Config) -> Json:
        """The verdict on a config."""
        if self.process is None or self.judged >= CASES_PER_WORKER:
            self.close()
            self._start()
        self.judged += 1
        process = self._process()
        with contextlib.suppress(BrokenPipeError):  # a dead process has no answer either
            print(json.dumps(config), file=process.stdin, flush=True)
        answer = self._answer(self.timeout_s)
        if answer is None:
            process.kill()
            status = process.wait()
            self.close()
            hung = status == -9
            return {
                "verdict": "hang" if hung else "death",
                "detail": f"over {self.timeout_s} processor seconds"
                if hung
                else f"exit status {status}",
                "seconds": self.timeout_s,
            }
        return answer

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            process = self._process()
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self.process = None

    def _process(self) -> subprocess.Popen[str]:
        assert self.process is not None
        return self.process

    def _start(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tools" / "fuzz_worker.py"), str(self.memory_bytes)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        self.judged = 0
        if self._answer(300) is None:
            raise SystemExit("fuzz: a worker does not start; run tools/fuzz_worker.py by hand")

    def _cpu_s(self) -> float:
        """Processor seconds of the process: what else runs on the machine does not make a case a hang."""
        try:
            text = Path(f"/proc/{self._process().pid}/stat").read_text(encoding="utf-8")
        except OSError:
            return 0.0
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _answer(self, timeout_s: float) -> Json | None:
        stdout = self._process().stdout
        assert stdout is not None
        start, longest = self._cpu_s(), time.monotonic() + 10 * timeout_s
        ready: list[Any] = []
        while not ready and self._cpu_s() - start < timeout_s and time.monotonic() < longest:
            ready, _, _ = select.select([stdout], [], [], min(0.5, timeout_s))
        line = stdout.readline() if ready else ""
        if not line and ready:  # it ended by itself
            self._process().wait()
        return json.loads(line) if line else None


def is_bad(found: Json, *, benign: bool) -> bool:
    """Whether a verdict is none of: traced exactly, one clear error."""
    return found["verdict"] != "exact" and (benign or found["verdict"] != "error")


def smaller(
    worker: Worker, config: Config, changes: list[Change], found: Json, *, benign: bool
) -> Config:
    """A config that is bad in the same way, with changes and fields left out while it stays so."""  # fmt: skip

    def same(trial: Config) -> bool:
        again = worker.judge(trial)
        return is_bad(again, benign=benign) and again["verdict"] == found["verdict"]

    for change in list(changes):
        fewer = [c for c in changes if c is not change]
        if fewer and same(apply(config, fewer)):
            changes = fewer
    result, tries = apply(config, changes), 0
    for section in {(), text_path(result)}:
        fields = at(result, section) if set(section) <= set(result) else {}
        for name in list(fields):
            trial = apply(result, [{"path": [*section, name], "drop": True}])
            tries += 1
            if tries > SMALLER_TRIES or found["verdict"] == "hang" or not same(trial):
                continue
            result = trial
    return result


def run(numbers: Iterator[int], worker: Worker, log: Log, seed: int) -> None:
    """Judge cases until none is left."""
    for number in numbers:
        name, benign, changes = case(seed, number, log.known)
        benign = benign and log.traces(name, worker)
        found = worker.judge(apply(log.known[name], changes))
        row = {
            "case": number,
            "seed": seed,
            "base": name,
            "benign": benign,
            "changes": changes,
            **found,
        }
        if is_bad(found, benign=benign):
            row["bad"] = True
            reduced = smaller(worker, log.known[name], changes, found, benign=benign)
            log.keep(number, reduced)
        log.add(row)
    worker.close()


class Log:
    """What was judged: a line per case on disk, and a progress line with the rate."""

    def __init__(self, folder: Path, total: int, seed: int) -> None:
        self.known = bases()
        self.folder, self.total, self.seed = folder, total, seed
        (folder / "bad").mkdir(parents=True, exist_ok=True)
        self.file = folder / "results.jsonl"
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        self.rows: list[Json] = [r for r in rows if r["seed"] == seed and r["case"] < total]
        self.before, self.start = len(self.rows), time.monotonic()
        self._lock = threading.Lock()
        self._traces: dict[str, bool] = {}

    def traces(self, name: str, worker: Worker) -> bool:
        """Whether a config traces exactly as it is: what benign changes to it must keep."""
        if name not in self._traces:
            self._traces[name] = worker.judge(self.known[name])["verdict"] == "exact"
        return self._traces[name]

    def left(self) -> Iterator[int]:
        """Numbers of the cases that have no line."""
        done = {row["case"] for row in self.rows}
        return iter([n for n in range(self.total) if n not in done])

    def keep(self, number: int, config: Config) -> None:
        """Store the config of a bad case."""
        target = self.folder / "bad" / f"{self.seed}-{number}.json"
        target.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")

    def add(self, row: Json) -> None:
        """Store a line and say how far we are."""
        with self._lock:
            self.rows.append(row)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            if len(self.rows) % 50 == 0 or row.get("bad") or len(self.rows) == self.total:
                bad = sum(bool(r.get("bad")) for r in self.rows)
                print(
                    f"{len(self.rows)}/{self.total}  {self.rate():.2f} cases/s  {bad} bad",
                    file=sys.stderr,
                )

    def rate(self) -> float:
        """Cases per second of this run."""
        return (len(self.rows) - self.before) / max(time.monotonic() - self.start, 1e-9)

    def summary(self) -> Json:
        """What came of it all."""
        seconds = sorted(row["seconds"] for row in self.rows)
        return {
            "seed": self.seed,
            "cases": len(self.rows),
            "of": self.total,
            "bases": len(self.known),
            "verdicts": dict(Counter(row["verdict"] for row in self.rows).most_common()),
            "benign": dict(Counter(r["verdict"] for r in self.rows if r["benign"]).most_common()),
            "errors": dict(Counter(r["kind"] for r in self.rows if "kind" in r).most_common()),
            "bad": [row for row in self.rows if row.get("bad")],
            "seconds": {"median": seconds[len(seconds) // 2], "longest": seconds[-1]}
            if seconds
            else {},
            "peak_mb": max((row.get("peak_mb", 0) for row in self.rows), default=0),
            "rate_per_s": round(self.rate(), 2),
        }


def main(argv: list[str] | None = None) -> int:
    """Run the cases that are left; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--timeout", type=float, default=60.0,
        help="processor seconds a case may take; ten times as many by the clock")  # fmt: skip
    parser.add_argument("--memory", type=float, default=8.0, help="GB of address space")
    arguments = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT))
    log = Log(arguments.out, arguments.cases, arguments.seed)
    left, lock = log.left(), threading.Lock()

    def numbers() -> Iterator[int]:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            yield number

    threads = [
        threading.Thread(
            target=run,
            args=(numbers(), Worker(arguments.timeout, int(arguments.memory * 1e9)), log, arguments.seed),
        )
        for _ in range(arguments.workers)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = log.summary()
    (arguments.out / "summary.json").write_text(
        json.dumps(found, indent=1) + "\n", encoding="utf-8"
    )
    print(json.dumps({**found, "bad": len(found["bad"])}, indent=1))
    return 1 if found["bad"] or found["cases"] < found["of"] else 0


if __name__ == "__main__":
    sys.exit(main())
