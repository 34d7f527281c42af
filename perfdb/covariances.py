"""The covariance of each op kind's efficiency, read from `covariances.toml`; `tools/fit_covariance.py` writes it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from oplib.kind import OpKind
from perfdb.kriging import Component, Covariance

FILE = "covariances.toml"

# What a kind without an entry gets: smooth over some octaves, and a rough part of a few percent.
_DEFAULT_SMOOTH, _DEFAULT_ROUGH, _DEFAULT_NOISE = (0.4, 8.0), (0.05, 1.0), 0.01


@cache
def _entries() -> Mapping[str, Any]:  # Any: a TOML file
    text = (files("perfdb") / FILE).read_text(encoding="utf-8")
    return MappingProxyType(tomllib.loads(text))


def covariance_of(kind: OpKind) -> Covariance:
    """The covariance of a kind's log efficiency over `kind.coordinates`."""
    entry = _entries().get(kind.name)
    count = len(kind.coordinates)
    if entry is None:
        (smooth, far), (rough, near) = _DEFAULT_SMOOTH, _DEFAULT_ROUGH
        return Covariance(
            components=(
                Component(deviation=smooth, lengths=(far,) * count, smooth=True),
                Component(deviation=rough, lengths=(near,) * count),
            ),
            noise=_DEFAULT_NOISE,
        )
    if entry["coordinates"] != list(kind.coordinates):
        raise ValueError(
            f"perfdb/{FILE}: {kind.name} is over {entry['coordinates']}, the kind over "
            f"{list(kind.coordinates)}; fit it again."
        )
    parts = tuple(
        Component(
            deviation=part["deviation"], lengths=tuple(part["lengths"]), smooth=part["smooth"]
        )
        for part in entry["components"]
    )
    return Covariance(components=parts, noise=entry["noise"])
