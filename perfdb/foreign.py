"""Where tables are: our own folder, then the installed package aiconfigurator-core, or a folder that the user names.

Ours is `perfdb/data/<system>/<backend>/<version>/<stem>.txt`; the package's has a family in between,
`<system>/<family>/<backend>/<version>/<stem>.parquet`. Every folder may have either.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from oplib.errors import (
    InvalidInputError,
    PerfDataNotAvailableError,
    UnknownBackendError,
    UnknownSystemError,
    UnknownVersionError,
)
from oplib.kind import OpKind
from oplib.registry import op_kinds
from perfdb.systems import list_systems

PACKAGE = "aiconfigurator_core"
OWN_DATA = Path(__file__).with_name("data")
_INSTALL = (
    "Install it (pip install 'trace-model[foreign]'), or name a folder of tables with --data."
)
_ENDINGS = (".txt", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """One table file and what its folders say of it; `root` is the place of its folder in the order of search."""

    system: str
    backend: str
    version: str
    root: int
    path: Path


def data_folder() -> Path:
    """The folder of tables in the installed package."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise PerfDataNotAvailableError(
            "The package aiconfigurator-core is not installed, so its tables cannot be read.",
            _INSTALL,
        )
    return Path(next(iter(found.submodule_search_locations))) / "systems" / "data"


def data_folders(data: Path | None = None) -> list[Path]:
    """Folders of tables in the order of search: `data` alone, or ours and the package's, as far as they are there."""
    if data is not None:
        if not data.is_dir():
            raise UnknownSystemError(f"{data} is no folder.", "--data names a folder of tables.")
        return [data]
    own = [OWN_DATA] if OWN_DATA.is_dir() else []
    try:
        return [*own, data_folder()]
    except PerfDataNotAvailableError:
        if own:
            return own
        raise


def available(data: Path | None = None) -> list[tuple[str, str, str, list[str]]]:
    """What there is: (system, backend, version, stems of its tables), sorted; versions by their numbers."""
    found: dict[tuple[str, str, str], set[str]] = {}
    for folder in data_folders(data):
        for system in _folders(folder):
            for one in _locations(folder, system.name):
                found.setdefault((one.system, one.backend, one.version), set()).add(one.path.stem)
    keys = sorted(found, key=lambda key: (key[0], key[1], release(key[2])))
    return [(*key, sorted(found[key])) for key in keys]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """The tables of a system as one backend asks them: those of `version` first, and of no other where it is `named`.

    A table that belongs to another backend (NCCL's) goes by the newest version of its own.
    """

    system: str
    backend: str
    version: str
    named: bool
    there: tuple[Location, ...]

    @classmethod
    def of(cls, *, system: str, backend: str, version: str = "", data: Path | None = None) -> Shelf:
        """That of a backend; without a version its main one (`main_version`) is asked first."""
        there = all_tables(system, data)
        main = settle_version(there, system=system, backend=backend, version=version)
        return cls(
            system=system, backend=backend, version=main, named=bool(version), there=tuple(there)
        )

    def tables(self, kind: OpKind) -> list[Path]:
        """Every file with measurements of a kind, the one that counts most in front.

        The formats of the kind in their order, then versions: the named one alone, or the main one, then older ones
        from new to old, then newer ones. Of two folders with the same file the first of `data_folders` counts.
        """
        paths: list[Path] = []
        for form in kind.table_formats:
            owner = form.backend or self.backend
            of_stem = [
                one for one in self.there if one.backend == owner and one.path.stem == form.stem
            ]
            found: dict[str, Path] = {}
            for one in sorted(of_stem, key=lambda one: one.root):
                found.setdefault(one.version, one.path)
            if self.named and owner == self.backend:
                paths += [found[self.version]] if self.version in found else []
            else:
                newest = max(found, key=release, default="")
                wanted = self.version if owner == self.backend else newest
                paths.extend(found[name] for name in _by_closeness(found, wanted))
        return paths

    def lack(self, kind: OpKind) -> str:
        """The sentence that says of a kind that it has no table here."""
        stems = " or ".join(form.stem for form in kind.table_formats)
        return (
            f"No table {stems} of {self.system}/{self.backend}/{self.version}, so {kind.name} has no measurements "
            "there."
        )


def find_table(
    kind: OpKind, *, system: str, backend: str, version: str = "", data: Path | None = None
) -> Path:
    """The file of a kind's measurements that is asked first: the head of `find_tables`."""
    return find_tables(kind, system=system, backend=backend, version=version, data=data)[0]


def find_tables(
    kind: OpKind, *, system: str, backend: str, version: str = "", data: Path | None = None
) -> list[Path]:
    """`Shelf.tables`; where there are none, an error that lists who has the kind."""
    shelf = Shelf.of(system=system, backend=backend, version=version, data=data)
    if paths := shelf.tables(kind):
        return paths
    stems = {form.stem for form in kind.table_formats}
    owners = [f"{at[0]}/{at[1]}/{at[2]}" for at in available(data) if stems & set(at[3])]
    raise PerfDataNotAvailableError(
        shelf.lack(kind), f"There are: {', '.join(owners) or 'none of this op'}."
    )


def settle_version(there: list[Location], *, system: str, backend: str, version: str = "") -> str:
    """The version that is asked first, the named one or the main one; an unknown backend or version is an error."""
    if not any(one.backend == backend for one in there):
        backends = sorted({one.backend for one in there})
        raise UnknownBackendError(
            f"No tables of the backend {backend!r} on {system}.",
            f"There are: {', '.join(backends)}.",
        )
    main = version or main_version(there, backend)
    if not any(one.backend == backend and one.version == main for one in there):
        raise UnknownVersionError(
            f"No tables of {backend} {version} on {system}.",
            f"There are: {', '.join(versions_of(there, backend))}.",
        )
    return main


def serving_backends(there: list[Location]) -> list[str]:
    """The backends with a table of an op that computes: one with collectives alone prices no model."""
    computed = {
        (form.stem, form.backend)
        for kind in op_kinds().values()
        if kind.role != "communication"
        for form in kind.table_formats
    }
    return sorted(
        {
            one.backend
            for one in there
            if (one.path.stem, "") in computed or (one.path.stem, one.backend) in computed
        }
    )


def serving_version(
    system: str, backend: str, *, version: str = "", data: Path | None = None
) -> str:
    """`settle_version` of a backend that is to price a model; else InvalidInputError with what there is."""
    try:
        there = all_tables(system, data)
    except PerfDataNotAvailableError as error:
        raise InvalidInputError(error.message, error.hint) from error
    offered = serving_backends(there)
    if backend not in offered:
        held = any(one.backend == backend for one in there)
        elsewhere = sorted({at[0] for at in available(data) if at[1] == backend} - {system})
        raise UnknownBackendError(
            f"{backend} has tables of collectives alone on {system}."
            if held
            else f"No tables of the backend {backend!r} on {system}.",
            f"There are, for models: {', '.join(offered) or 'none'}."
            + (f" {backend} has some on {', '.join(elsewhere)}." if elsewhere else "")
            + _absent(data),
        )
    return settle_version(there, system=system, backend=backend, version=version)


def main_version(there: list[Location], backend: str) -> str:
    """The version of a backend with most tables, the newest of equals: later ones often add a single op."""
    stems: dict[str, set[str]] = {}
    for one in there:
        if one.backend == backend:
            stems.setdefault(one.version, set()).add(one.path.stem)
    return max(stems, key=lambda name: (len(stems[name]), release(name)))


def versions_of(there: list[Location], backend: str) -> list[str]:
    """The versions of a backend, oldest first."""
    return sorted({one.version for one in there if one.backend == backend}, key=release)


def all_tables(system: str, data: Path | None = None) -> list[Location]:
    """Every table of a system; an unknown system, or one without tables, is an error that lists the others."""
    folders = data_folders(data)
    there = [
        location
        for root, folder in enumerate(folders)
        for location in _locations(folder, system, root)
    ]
    if there:
        return there
    with_tables = sorted(
        {s.name for f in folders for s in _folders(f) if any(_locations(f, s.name))}
    )
    hint = f"Systems with tables: {', '.join(with_tables) or 'none'}."
    if not with_tables:
        hint = f"A folder of tables holds {system}/BACKEND/VERSION/TABLE.txt; docs/tables.md describes it."
    if system not in list_systems() and system not in with_tables:
        raise UnknownSystemError(f"Unknown system {system!r}.", hint)
    raise PerfDataNotAvailableError(f"No tables of {system}.", hint + _absent(data))


def _absent(data: Path | None) -> str:
    """Words on the package of tables where it would be asked and is not there."""
    if data is not None or importlib.util.find_spec(PACKAGE) is not None:
        return ""
    return f" The package aiconfigurator-core, which has more, is not installed. {_INSTALL}"


def release(version: str) -> tuple[tuple[int, str], ...]:
    """Orders versions by their numbers: `1.3.0rc3`, `1.3.0rc20`, `1.3.0`, `1.3.0.post1`, `1.3.1`."""
    parts = [
        (int(part), "") if part.isdigit() else (0 if part == "post" else -1, part)
        for part in re.findall(r"\d+|[a-z]+", version.lower())
    ]
    return (*parts, (0, "")) if parts else ()


def _by_closeness(found: Mapping[str, Path], wanted: str) -> list[str]:
    """The wanted version and older ones, newest first, then newer ones from the nearest on."""
    older = [name for name in found if release(name) <= release(wanted)]
    newer = [name for name in found if release(name) > release(wanted)]
    return [*sorted(older, key=release, reverse=True), *sorted(newer, key=release)]


def _scan(folder: Path, system: str) -> tuple[tuple[str, str, Path], ...]:
    """Backend, version and path of each table of a system, sorted by path."""
    if PACKAGE in folder.parts:  # an installed package stays as it is
        return _scan_once(folder, system)
    return _walk(folder, system)


def _walk(folder: Path, system: str) -> tuple[tuple[str, str, Path], ...]:
    found = []
    for root, _, names in os.walk(folder / system):
        parts = root[len(str(folder)) + 1 :].split(os.sep)
        if len(parts) in (3, 4):
            found += [
                (root, name, parts[-2], parts[-1]) for name in names if name.endswith(_ENDINGS)
            ]
    return tuple(
        (backend, version, Path(root, name)) for root, name, backend, version in sorted(found)
    )


_scan_once = cache(_walk)


def _locations(folder: Path, system: str, root: int = 0) -> Iterator[Location]:
    for backend, version, path in _scan(folder, system):
        yield Location(system=system, backend=backend, version=version, root=root, path=path)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())
