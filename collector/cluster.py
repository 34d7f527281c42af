"""Measuring over a cluster: Ray gives each GPU a runner of its own, which takes tasks and writes its own segment.

The log's folder has to be the same on all nodes; segments need no locks. A node that is lost leaves the tasks that it
had without rows: they are given out again, as often as `TRIES`, to the GPUs that are left.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from collector.log import Segment, latest, read_log
from collector.runner import WINDOW, Limits, Outcome, Runner
from collector.worker import Options, Task
from oplib.errors import InvalidInputError

Json: TypeAlias = dict[str, Any]  # Any: an object that becomes JSON
TRIES = 3
_AT_ONCE = 4 * WINDOW  # tasks that a runner takes at a time


class Dispenser:
    """The tasks that nobody has taken; one process of the cluster holds it."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._waiting = collections.deque(tasks)

    def take(self) -> list[Task]:
        """The next tasks, none where all are taken."""
        return [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]

    def left(self) -> int:
        """How many tasks nobody has taken."""
        return len(self._waiting)


def measure(
    folder: Path, options: Options, limits: Limits, take: Callable[[], list[Task]]
) -> Outcome:
    """Run what `take` gives until it gives nothing, on one device, into a segment of the log."""
    segment = Segment(folder)
    outcome = Runner(segment, [options], limits).run(take(), lambda _: take())
    segment.close()
    return outcome


def run_cluster(
    address: str, tasks: Sequence[Task], options: Options, limits: Limits, folder: Path
) -> Outcome:
    """All tasks over the GPUs of a cluster, or its processors where `options.device` is cpu.

    `address` is Ray's: `auto` for the cluster of this node, `local` for one that is started here. The budget counts
    from when the runners start.
    """
    ray = _ray()
    ray.init(
        address=None if address == "local" else address,
        log_to_driver=False,
        configure_logging=False,
    )
    try:
        total = Outcome()
        left = list(tasks)
        for _ in range(TRIES):
            outcome, failures = _over_all(ray, left, options, limits, folder)
            total = total + replace(outcome, left=0)
            for failure in failures:
                print(f"a runner of the cluster ended: {failure}", file=sys.stderr)
            left = _without_rows(left, folder)
            if not failures or not left:
                break
        total.left = len(left)
        return total
    finally:
        ray.shutdown()


def _over_all(
    ray: Any, tasks: Sequence[Task], options: Options, limits: Limits, folder: Path
) -> tuple[Outcome, list[str]]:  # Any: a package without types
    """One runner for each device, until all are done; what they did, and the words of those that were lost."""
    cpu = options.device == "cpu"
    resources = ray.cluster_resources()
    count = int(resources.get("CPU" if cpu else "GPU", 0)) - (1 if cpu else 0)
    if count < 1:
        raise InvalidInputError(
            f"The cluster has no {'second processor' if cpu else 'GPU'}.", f"It has {resources}."
        )
    dispenser = ray.remote(num_cpus=1 if cpu else 0)(Dispenser).remote(list(tasks))
    device = options if cpu else replace(options, device="cuda:0")  # the one that Ray lets it see

    def share() -> Outcome:
        return measure(folder, device, limits, lambda: ray.get(dispenser.take.remote()))

    remote = ray.remote(num_cpus=1, num_gpus=0 if cpu else 1, max_retries=0)(share)
    running = [remote.remote() for _ in range(min(count, len(tasks)))]
    outcome, failures = Outcome(), []
    for one in running:
        try:
            outcome = outcome + ray.get(one)
        except ray.exceptions.RayError as error:
            failures.append(" ".join(str(error).split())[-300:])
    # runners work side by side
    outcome.seconds /= max(len(running) - len(failures), 1)
    ray.kill(dispenser)
    return outcome, failures


def _without_rows(tasks: Sequence[Task], folder: Path) -> list[Task]:
    asked = ({**row, "variant": row["asked"]} for row in read_log(folder)[0] if "asked" in row)
    done = latest(asked)
    return [one for one in tasks if (one.what, one.variant, one.case.case_id) not in done]


def _ray() -> Any:  # Any: a package without types
    try:
        import ray
    except ImportError as error:
        raise InvalidInputError(
            "A cluster needs Ray, which is not installed.", "Install trace-model[cluster]."
        ) from error
    return ray
