"""The model types of transformers that have a language model, each as a config folder that can be traced.

    python tools/zoo.py FOLDER [TYPE ...]

writes FOLDER/<mapping>/<model_type>/config.json for the types given by name, or for all. What a config says comes from
zoo.toml; everything else is left to the config class.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".toml")
CAUSAL, IMAGE_TEXT = "causal", "image_text"
Config = dict[str, Any]  # Any: a config.json


@dataclass(frozen=True, slots=True, kw_only=True)
class Specimen:
    """A model type of one mapping, the class that the mapping names, and the config that stands for it.

    `source` is empty where the defaults of the config class stand; `no_decoder` says why nothing can be traced.
    """

    key: str
    architecture: str
    config: Config
    source: str = ""
    no_decoder: str = ""

    @property
    def mapping(self) -> str:
        """The mapping that has this type."""
        return self.key.partition("/")[0]

    @property
    def model_type(self) -> str:
        """Its name in transformers."""
        return self.key.partition("/")[2]

    def write(self, folder: Path) -> Path:
        """The folder of its config.json, below `folder`."""
        path = folder / self.key
        path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.config, indent=1)
        (path / "config.json").write_text(text, encoding="utf-8")
        return path


def known() -> dict[str, Specimen]:
    """Every type of the installed transformers, by key, in sorted order."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers.models.auto import modeling_auto

    names = {
        CAUSAL: modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        IMAGE_TEXT: modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    }
    found = {
        f"{mapping}/{model_type}": classes if isinstance(classes, str) else classes[0]
        for mapping, types in names.items()
        for model_type, classes in types.items()
    }
    return {key: specimen(key, found[key]) for key in sorted(found)}


def specimen(key: str, architecture: str) -> Specimen:
    """The type with what zoo.toml says of it."""
    config: Config = {"model_type": key.partition("/")[2], "architectures": [architecture]}
    listed = written().get(key, {})
    return Specimen(
        key=key,
        architecture=architecture,
        config=config | listed.get("config", {}),
        source=listed.get("source", ""),
        no_decoder=listed.get("reason", ""),
    )


@functools.cache
def written() -> Mapping[str, Config]:
    """What zoo.toml says, by key; a type may be listed once."""
    with FILE.open("rb") as file:
        sections = tomllib.load(file)
    found: dict[str, Config] = {}
    for entry in [*sections["entry"], *sections["no_decoder"]]:
        config = _with_nulls(entry.get("config", {}))
        said = {name: entry[name] for name in ("source", "reason") if name in entry}
        texts = {key: {"text_config": config} for key in entry.get("in_text_config", ())}
        for key, own in (dict.fromkeys(entry.get("types", ()), config) | texts).items():
            if key in found:
                raise ValueError(f"{FILE.name} lists {key} twice")
            found[key] = {**said, "config": own}
    return found


def _with_nulls(value: Any) -> Any:  # parsed TOML
    if isinstance(value, dict):
        return {name: _with_nulls(item) for name, item in value.items()}
    return None if value == "null" else value


def chosen(specimens: Mapping[str, Specimen], names: Iterable[str]) -> list[Specimen]:
    """The types that a name picks: a key, or a model type in whichever mapping has it."""
    found = []
    for name in names:
        hits = [s for key, s in specimens.items() if name in (key, s.model_type)]
        if not hits:
            raise SystemExit(f"transformers has no type {name!r} with a language model")
        found += hits
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    arguments = parser.parse_args()
    specimens = known()
    for one in chosen(specimens, arguments.types) if arguments.types else specimens.values():
        print(one.write(arguments.folder), f"  {one.no_decoder or one.source or 'defaults'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
