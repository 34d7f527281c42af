"""Architectures known so far, read from `architectures.toml`, and the closest of them to a new one."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from models.features import feature

FILE = "architectures.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One architecture. `signature` holds in every config traced, `optional` in some; both are empty where none was.

    `family` is the group under which the nearest system models it, empty where that system does not know the name.
    """

    architecture: str
    model_type: str
    family: str
    examples: tuple[str, ...]
    signature: tuple[str, ...]
    optional: tuple[str, ...]
    traced_with: str
    source: str


@cache
def known_architectures() -> Mapping[str, Architecture]:
    """Every known architecture by its name in `architectures` of a config."""
    text = (files("models") / FILE).read_text(encoding="utf-8")
    try:
        return MappingProxyType(parse_architectures(tomllib.loads(text)))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"models/{FILE}: {error!r}") from error


def parse_architectures(data: Mapping[str, Any]) -> dict[str, Architecture]:  # Any: a TOML file
    """The records of an architectures file by name; a second one of a name or an unknown source is refused."""
    found: dict[str, Architecture] = {}
    for entry in data["architecture"]:
        record = Architecture(
            architecture=entry["architecture"],
            model_type=entry["model_type"],
            family=entry["family"],
            examples=tuple(entry["examples"]),
            signature=tuple(entry["signature"]),
            optional=tuple(entry["optional"]),
            traced_with=entry["traced_with"],
            source=entry["source"],
        )
        if record.architecture in found:
            raise ValueError(f"{record.architecture} occurs twice")
        if record.source and record.source not in data["sources"]:
            raise ValueError(f"{record.architecture}: source {record.source!r} is not in [sources]")
        found[record.architecture] = record
    return found


def is_known(architecture: str) -> bool:
    """Whether this name is among the known architectures."""
    return architecture in known_architectures()


def relatives(
    signature: Collection[str], *, architecture: str, most: int = 3
) -> list[dict[str, Any]]:  # Any: a JSON object, as reports hold it
    """The known architectures closest to a signature, closest first, with what the new one has more (+) and less (-).

    Of several with the same signature the first by name stands for all. `architecture` is left out of the answer.
    """
    new = frozenset(signature)
    forms: dict[frozenset[str], Architecture] = {}
    for _, record in sorted(known_architectures().items()):
        if record.signature and record.architecture != architecture:
            forms.setdefault(_closest_form(record, new), record)
    closest = sorted(forms, key=lambda old: -similarity(new, old)) if new else []
    return [
        {
            "architecture": forms[old].architecture,
            "model_type": forms[old].model_type,
            "similarity": round(similarity(new, old), 3),
            "differs": differences(new, old),
        }
        for old in closest[:most]
    ]


def _closest_form(record: Architecture, new: frozenset[str]) -> frozenset[str]:
    """The features of a known architecture, with those optional ones that the new one has too."""
    return frozenset(record.signature) | (new & frozenset(record.optional))


def similarity(a: frozenset[str], b: frozenset[str]) -> float:
    """Weight of the features of both over the weight of the features of either, 0 to 1."""
    either = sum(feature(name).weight for name in a | b)
    return sum(feature(name).weight for name in a & b) / either if either else 1.0


def differences(new: frozenset[str], old: frozenset[str]) -> list[str]:
    """What the new one has and lacks, in words, heaviest first."""
    signed = [("+", name) for name in new - old] + [("-", name) for name in old - new]
    signed.sort(key=lambda pair: (-feature(pair[1]).weight, pair[0], pair[1]))
    return [f"{sign} {feature(name).words}" for sign, name in signed]
