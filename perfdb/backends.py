"""What is known of a backend by its name. Which backends there are is what folders of tables say (`perfdb.foreign`)."""

from __future__ import annotations

from oplib.lowerings import USUAL

_LOWERINGS = {"torch": "torch"}  # of backends that are no serving engine


def lowering_of(backend: str) -> str:
    """The lowering whose ops the tables of a backend measure; the usual one of no backend ("")."""
    return _LOWERINGS.get(backend, USUAL)
