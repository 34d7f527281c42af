"""The runner: tasks over one process per device; each row is in the log before its case counts as done.

This process alone writes the log. A worker is given windows of tasks, which it makes ready one by one and samples
side by side; each row is written as soon as its case is final. A worker that dies, hangs or asks for it is replaced;
the case it made ready becomes a row with a status, and the others are given out again. Where it ended among the
samples of several, each of them is given out alone.
"""

from __future__ import annotations

import collections
import math
import multiprocessing
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias

from collector.log import ERROR, OK, SKIPPED, TIMEOUT, Segment
from collector.worker import Answer, Options, Task, now, serve
from oplib.errors import TraceModelError

Json: TypeAlias = dict[str, Any]  # Any: an object that becomes JSON
Serving: TypeAlias = Callable[[Connection, Options], None]
WINDOW = 16  # tasks that a worker measures side by side, at most
_AHEAD = 2  # windows that a worker has: it goes on to one while the rows of the other are written
_START_SECONDS = 180.0  # for a process to load torch and open its device
_START_TRIES = 3
_LONGEST_WAIT = 60.0  # for word of a worker, at a time
_GRACE_SECONDS = 5.0  # for the cases in flight once the budget is spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds for one case, and for all of them (0: no limit)."""

    case_seconds: float = 60.0
    budget_seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a run did: rows by status in `counts`, and the tasks that were not reached."""

    rows: list[Json] = field(default_factory=list)
    left: int = 0
    seconds: float = 0.0

    def __add__(self, other: Outcome) -> Outcome:
        """Both runs, one after the other."""
        return Outcome(
            rows=self.rows + other.rows,
            left=self.left + other.left,
            seconds=self.seconds + other.seconds,
        )


class Window:
    """Tasks that a worker measures side by side: those without a row by their place, and how far it is."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.sent = list(tasks)
        self.left = dict(enumerate(self.sent))
        self.alone: list[Task] = []  # those that did not fit beside the others
        self.sampling = False
        self.at = 0  # the place of the task that is made ready

    def blamed(self) -> Task | None:
        """The task that a worker was at when it ended; None where it was at several."""
        if self.sampling and len(self.left) > 1:
            return None
        return self.left.pop(self.at if self.at in self.left else next(iter(self.left)))

    def again(self) -> list[Task]:
        """Tasks to be given out once more, each alone where it is not known which of them ended the worker."""
        rest = [replace(one, share=1.0) if self.sampling else one for one in self.left.values()]
        return self.alone + rest


class Process:
    """One worker process and what it was given."""

    def __init__(self, options: Options, case_seconds: float, serving: Serving) -> None:
        self.options, self._case_seconds, self._serving = options, case_seconds, serving
        self.given: collections.deque[Window] = collections.deque()
        self.failed_starts = 0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=self._serving, args=(theirs, self.options))
        self._process.start()
        theirs.close()
        self.ready = False
        self.provenance = ""
        self.more_seconds = 0.0  # than a case has, where something is built
        self.went_on()

    @property
    def room(self) -> int:
        """How many more windows it takes."""
        return _AHEAD - len(self.given) if self.ready else 0

    def give(self, window: Window) -> None:
        """Send the tasks of a window."""
        if not self.given:
            self.went_on()
        self.given.append(window)
        try:
            self.connection.send(window.sent)
        except OSError:
            return  # it is dead: receiving says so, and what it was given is given out again

    def went_on(self) -> None:
        """It said something: its next step runs from now."""
        self.allowed = self._case_seconds + self.more_seconds if self.ready else _START_SECONDS
        self.deadline = time.monotonic() + self.allowed

    def waits(self) -> None:
        """It waits for its turn, for as long as others take: they have deadlines."""
        self.deadline = math.inf

    def stop(self) -> int | None:
        """Kill the process; its exit status before that, None where it was running."""
        self._process.join(0.2)
        status = self._process.exitcode
        self._process.kill()
        self._process.join()
        self.connection.close()
        return status

    def restart(self) -> list[Task]:
        """A fresh process; what the old one still had."""
        left = [task for window in self.given for task in window.again()]
        self.given.clear()
        self._start()
        return left


class Runner:
    """Runs tasks and logs a row for each."""

    def __init__(
        self, segment: Segment, options: Iterable[Options], limits: Limits,
        progress: Callable[[Json], None] | None = None, *, serving: Serving = serve,
    ) -> None:  # fmt: skip
        self._segment, self._limits, self._serving = segment, limits, serving
        self._progress = progress or (lambda _: None)
        self._options = list(options)
        self._no_graph: set[tuple[str, str]] = set()
        self._checked: set[str] = set()
        self._taken: dict[tuple[str, str], str] = {}  # the variant that a request came to
        self._later: list[Task] = []  # those that did not fit beside others
        self._outcome = Outcome()

    def run(
        self, tasks: Iterable[Task], more: Callable[[list[Json]], Iterable[Task]] | None = None
    ) -> Outcome:
        """All tasks, until they are done or the budget is spent. `more`, asked whenever all are done, gives further
        ones by the rows so far, or none."""
        waiting = collections.deque(tasks)
        start = time.monotonic()
        budget = self._limits.budget_seconds
        processes = [
            Process(one, self._limits.case_seconds, self._serving)
            for one in self._options[: len(waiting)]
        ]
        try:
            while self._goes_on(waiting, processes, more):
                waiting.extend(self._later)
                self._later.clear()
                spent = time.monotonic() - start
                if budget and spent > budget:
                    waiting.extendleft(self._drain(processes))
                    break
                while waiting and (free := [one for one in processes if one.room > 0]):
                    for process in free:
                        if waiting:
                            process.give(self._window(waiting))
                self._step(processes, waiting, start + budget if budget else None)
        finally:
            for process in processes:
                process.stop()
        self._outcome.left = len(waiting)
        self._outcome.seconds = time.monotonic() - start
        return self._outcome

    def _goes_on(
        self,
        waiting: collections.deque[Task],
        processes: list[Process],
        more: Callable[[list[Json]], Iterable[Task]] | None,
    ) -> bool:
        if waiting or self._later or any(process.given for process in processes):
            return True
        if more is not None:
            waiting.extend(more(self._outcome.rows))
        return bool(waiting)

    def _step(
        self, processes: list[Process], waiting: collections.deque[Task], until: float | None
    ) -> None:
        """Wait for the next thing to happen and deal with it."""
        pending = [one for one in processes if one.given or not one.ready]
        next_deadline = min(one.deadline for one in pending)
        if until is not None:
            next_deadline = min(next_deadline, until)
        by_connection = {process.connection: process for process in processes}
        seconds = min(max(next_deadline - time.monotonic(), 0.0), _LONGEST_WAIT)
        ready = wait(list(by_connection), seconds)
        for connection in ready:
            assert isinstance(connection, Connection)
            self._receive(by_connection[connection], waiting)
        for process in processes:
            late = time.monotonic() > process.deadline
            if late and process.connection not in ready and (process.given or not process.ready):
                self._replace(process, waiting, TIMEOUT, f"over {process.allowed:.0f} s")

    def _receive(self, process: Process, waiting: collections.deque[Task]) -> None:
        try:
            answer: Answer = process.connection.recv()
        except (EOFError, OSError):
            self._replace(process, waiting, ERROR, "the worker process ended")
            return
        if answer.phase == "waiting":
            process.waits()
            return
        if answer.phase != "had":  # the turn is had for what it is prepared for
            process.more_seconds = answer.build_seconds
        if answer.phase == "hello":
            process.ready, process.failed_starts = True, 0
            process.provenance = str(answer.row["date"])
            self._segment.append(answer.row)
        process.went_on()
        self._heard(process, answer)
        if answer.restart:
            process.stop()
            self._again(process, waiting)

    def _heard(self, process: Process, answer: Answer) -> None:
        """What a worker says of its first window, if it does."""
        if answer.phase in ("hello", "had"):
            return
        window = process.given[0]
        if answer.phase == "preparing":
            window.at = answer.place
        elif answer.phase == "sampling":
            window.sampling = True
        else:
            task = window.left.pop(answer.place)
            if answer.phase == "alone":
                window.alone.append(replace(task, share=1.0))
            else:
                self._write({**answer.row, "provenance": process.provenance}, task)
        if not window.left:
            process.given.popleft()
            self._later += window.alone

    def _replace(
        self, process: Process, waiting: collections.deque[Task], status: str, reason: str
    ) -> None:
        """A worker that died or hangs: its case gets the status, the others go back."""
        code = process.stop()
        if not process.ready:
            process.failed_starts += 1
            if process.failed_starts >= _START_TRIES:
                raise TraceModelError(
                    f"No worker starts on {process.options.device}: it ended with {code}.",
                    "Its own words are on stderr above.",
                )
        elif process.given and (task := process.given[0].blamed()) is not None:
            ended = "" if code is None or status == TIMEOUT else f" with status {code}"
            self._write(
                {
                    "what": task.what,
                    "variant": self._taken.get((task.case.op, task.variant), task.variant),
                    "case_id": task.case.case_id,
                    "op": task.case.op,
                    "params": dict(task.case.params),
                    "dims": dict(task.case.dims),
                    "status": status,
                    "reason": reason + ended,
                    "date": now(),
                    "provenance": process.provenance,
                },
                task,
            )
        self._again(process, waiting)

    def _again(self, process: Process, waiting: collections.deque[Task]) -> None:
        process.options = replace(process.options, checked=tuple(sorted(self._checked)))
        waiting.extendleft(reversed(process.restart()))

    def _window(self, waiting: collections.deque[Task]) -> Window:
        """The next tasks, as many as one window holds."""
        tasks, filled = [self._hinted(waiting.popleft())], 0.0
        filled = tasks[0].share
        while waiting and len(tasks) < WINDOW and filled + waiting[0].share <= 1.0:
            filled += waiting[0].share
            tasks.append(self._hinted(waiting.popleft()))
        return Window(tasks)

    def _write(self, row: Json, task: Task) -> None:
        # a row goes under the variant that was asked for, so that a resumed run finds it again
        row["asked"] = task.variant
        self._taken[row["op"], task.variant] = row["variant"]
        try:
            self._segment.append(row)
        except ValueError as error:  # a number that is none: JSON has no such
            kept = {k: v for k, v in row.items() if k not in ("timing", "error", "worst")}
            row = {**kept, "status": ERROR, "reason": f"the row cannot be written: {error}"}
            self._segment.append(row)
        self._outcome.rows.append(row)
        if row["status"] == OK:
            self._checked.add(f"{row['op']}={row['variant']}")
        timing = row.get("timing", {})
        if timing and not timing["graph"]:
            self._no_graph.add((row["op"], row["variant"]))
        self._progress(row)

    def _hinted(self, task: Task) -> Task:
        """A variant whose capture was broken off once runs without graphs: a broken capture costs a process."""
        lost = (task.case.op, task.variant) in self._no_graph
        return replace(task, graph=False) if lost else task

    def _drain(self, processes: list[Process]) -> list[Task]:
        """Rows of cases in flight that end within the grace; the tasks of the others, which leave no row."""
        until = time.monotonic() + _GRACE_SECONDS
        left: list[Task] = []
        for process in processes:
            while process.given and process.ready:
                if not process.connection.poll(max(until - time.monotonic(), 0.0)):
                    break
                try:
                    answer: Answer = process.connection.recv()
                except (EOFError, OSError):
                    break
                self._heard(process, answer)
                if answer.restart:
                    break
            left += [task for window in process.given for task in window.again()]
            process.given.clear()
        left += self._later
        self._later.clear()
        return left


def causes(rows: Iterable[Json]) -> dict[str, dict[str, int]]:
    """How many rows of each `op=variant` have which status and cause; numbers in a cause are left out."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        group = found.setdefault(f"{row['op']}={row['variant'] or 'any'}", {})
        cause = row["status"]
        if reason := row.get("reason"):
            cause += ": " + "".join("#" if char.isdigit() else char for char in reason)[:100]
        group[cause] = group.get(cause, 0) + 1
    return found


def failed_groups(rows: Iterable[Json]) -> list[str]:
    """Groups `op=variant` that were tried and have no row that is ok; skipped rows were not tried."""
    tried: dict[str, bool] = {}
    for row in rows:
        if row["status"] != SKIPPED:
            name = f"{row['op']}={row['variant'] or 'any'}"
            tried[name] = tried.get(name, False) or row["status"] == OK
    return [name for name, good in tried.items() if not good]
