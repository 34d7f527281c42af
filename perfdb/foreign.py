"""Tables of the installed package aiconfigurator-core: `<system>/<family>/<backend>/<version>/*.parquet`."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from oplib.errors import PerfDataNotAvailableError
from oplib.kind import OpKind

PACKAGE = "aiconfigurator_core"


def data_folder() -> Path:
    """The folder of tables in the installed package."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise PerfDataNotAvailableError(
            "The package aiconfigurator-core is not installed, so its tables cannot be read.",
            "Install it (pip install 'trace-model[foreign]'), or name a folder of tables with --data.",
        )
    return Path(next(iter(found.submodule_search_locations))) / "systems" / "data"


def find_table(
    kind: OpKind, *, system: str, backend: str, version: str = "", data: Path | None = None
) -> Path:
    """The file of a kind's measurements: of this version, or of the newest there is."""
    folder = data or data_folder()
    stem = kind.table_format.stem
    found = {
        path.parent.name: path
        for suffix in ("parquet", "txt")
        for path in folder.glob(f"{system}/**/{backend}/*/{stem}.{suffix}")
    }
    if version in found:
        return found[version]
    if version or not found:
        there = sorted(
            {
                "/".join((path.relative_to(folder).parts[0], *path.parts[-3:-1]))
                for path in folder.glob(f"**/{stem}.*")
            }
        )
        wanted = "/".join(part for part in (system, backend, version) if part)
        raise PerfDataNotAvailableError(
            f"No table {stem} of {wanted} in {folder}.",
            f"There are: {', '.join(there) or 'none of this op'}.",
        )
    return found[max(found, key=_release)]


def _release(version: str) -> tuple[tuple[int, str], ...]:
    """Orders versions by their numbers; `1.3.0rc20` comes after `1.3.0rc3`."""
    return tuple(
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.findall(r"\d+|[a-z]+", version.lower())
    )


def releases(system: str, data: Path | None = None) -> dict[str, list[str]]:
    """Backends with tables of a system, and the versions of each, oldest first."""
    folder = data or data_folder()
    found: dict[str, set[str]] = {}
    for suffix in ("parquet", "txt"):
        for path in folder.glob(f"{system}/**/*_perf.{suffix}"):
            found.setdefault(path.parts[-3], set()).add(path.parts[-2])
    return {backend: sorted(found[backend], key=_release) for backend in sorted(found)}
