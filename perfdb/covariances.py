"""The covariances of each op kind's efficiency, read from `covariances.toml`; `tools/fit_covariance.py` writes them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from oplib.kind import OpKind
from perfdb.kriging import Component, Covariance

FILE = "covariances.toml"

# Noise in tables of every kind: Student's t, wider above than below, as a disturbance takes time and none gives it.
FREEDOM, SKEW = 3.0, 1.25

# What a kind without an entry gets: smooth over many octaves or over a few, and a rough part of a few percent.
_DEFAULT_SMOOTH, _DEFAULT_ROUGH = 0.4, (0.05, 1.0)
_DEFAULT_LENGTHS, _DEFAULT_NOISES = (8.0, 2.5), (0.01, 0.04)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A covariance over `features` of the coordinates (`perfdb.features`); `source` says what it was fitted to."""

    source: str
    features: tuple[str, ...]
    covariance: Covariance


@cache
def _entries() -> Mapping[str, Any]:  # Any: a TOML file
    text = Path(__file__).with_name(FILE).read_text(encoding="utf-8")
    return MappingProxyType(tomllib.loads(text))


def models_of(kind: OpKind) -> Sequence[Model]:
    """The covariances that a table of this kind is offered; what fits its rows best is taken (`perfdb.estimator`)."""
    entry = _entries().get(kind.name)
    if entry is None:
        return [
            _default(kind, far, noise) for far, noise in product(_DEFAULT_LENGTHS, _DEFAULT_NOISES)
        ]
    return [
        Model(
            source=one["source"],
            features=tuple(entry["features"]),
            covariance=Covariance(
                components=tuple(
                    Component(
                        deviation=part["deviation"],
                        lengths=tuple(part["lengths"]),
                        smooth=part["smooth"],
                    )
                    for part in one["components"]
                ),
                noise=one["noise"],
                skew=SKEW,
                freedom=FREEDOM,
            ),
        )
        for one in entry["models"]
    ]


def _default(kind: OpKind, far: float, noise: float) -> Model:
    count = len(kind.coordinates)
    rough, near = _DEFAULT_ROUGH
    return Model(
        source="none: lengths of a few octaves",
        features=kind.coordinates,
        covariance=Covariance(
            components=(
                Component(deviation=_DEFAULT_SMOOTH, lengths=(far,) * count, smooth=True),
                Component(deviation=rough, lengths=(near,) * count),
            ),
            noise=noise,
            skew=SKEW,
            freedom=FREEDOM,
        ),
    )
