"""Find and read the JSON files of a model path: a Hub id, a local folder, or a config file. Nothing is executed."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oplib.errors import InvalidInputError, ModelNotFoundError
from oplib.oplist import MARKS

CONFIG_NAME = "config.json"
QUANT_NAME = "hf_quant_config.json"
DIFFUSION_NAME = "model_index.json"
HUB_TIMEOUT_S = 5.0
MAX_FILE_BYTES = 64 * 2**20  # the largest published config.json is below 1 MiB

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """What a model path holds: `config` is the parsed config.json, `quant` hf_quant_config.json (or empty)."""

    source: str
    config: dict[str, Any]
    quant: dict[str, Any]
    notes: tuple[str, ...] = ()


def read_config_file(model_path: str, *, revision: str | None = None) -> ConfigFile:
    """The config of a local folder, of a JSON file or of a Hub id; one clear error otherwise."""
    if not model_path or not model_path.strip() or "\0" in model_path:
        raise InvalidInputError(
            f"the model path {model_path!r} is empty or not a path.",
            hint="Give a Hub id (owner/name), a folder, or a config.json.",
        )
    path = Path(model_path).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if path.exists():
        return _read_single(path)
    if _looks_local(model_path):
        raise ModelNotFoundError(
            f"no such file or folder: {model_path}.",
            hint="Give a Hub id (owner/name), a folder with a config.json, or a JSON file.",
        )
    return _read_hub(model_path, revision)


def read_json_object(path: Path, *, shown: str | None = None) -> dict[str, Any]:
    """The object in a JSON file; malformed, truncated or other content is an InvalidInputError."""
    shown = shown or str(path)
    try:
        size = path.stat().st_size
        data = json.loads(path.read_text(encoding="utf-8-sig")) if size <= MAX_FILE_BYTES else None
    except OSError as error:
        raise InvalidInputError(
            f"cannot read {shown}: {error.strerror or error}.", hint="Check the file's permissions."
        ) from error
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidInputError(
            f"{shown} is not valid JSON: {what}.",
            hint="The file may be truncated or not a config; fetch it again.",
        ) from error
    if size > MAX_FILE_BYTES:
        raise InvalidInputError(
            f"{shown} is {size} bytes, more than a config can be.",
            hint="Give the config.json of the model, not its weights.",
        )
    if not isinstance(data, dict):
        raise InvalidInputError(
            f"{shown} holds a JSON {type(data).__name__}, not an object.",
            hint='A config starts with {"model_type": ...}.',
        )
    return data


def _looks_local(model_path: str) -> bool:
    return (
        model_path.startswith((".", "/", "~"))
        or model_path.endswith((".json", "/"))
        or "\\" in model_path
        or model_path.count("/") > 1
    )


def _read_folder(folder: Path) -> ConfigFile:
    path = folder / CONFIG_NAME
    if (folder / DIFFUSION_NAME).is_file() and not path.is_file():
        raise InvalidInputError(
            f"{folder} holds a diffusion pipeline ({DIFFUSION_NAME}), not a decoder language model.",
            hint="Give the folder of a causal language model.",
        )
    if not path.is_file():
        others = sorted(entry.name for entry in folder.glob("*.json"))[:5]
        raise ModelNotFoundError(
            f"{folder} has no {CONFIG_NAME}.",
            hint=f"It has {', '.join(others)}: give one of these files."
            if others
            else "Give a folder that has one, or a JSON file.",
        )
    return ConfigFile(
        source=str(path), config=read_json_object(path), quant=_read_optional(folder / QUANT_NAME)
    )


def _read_single(path: Path) -> ConfigFile:
    if not path.is_file():
        raise InvalidInputError(
            f"{path} is neither a folder nor a regular file.",
            hint="Give a Hub id (owner/name), a folder, or a config.json.",
        )
    config = read_json_object(path)
    if any(mark in config for mark in MARKS):
        raise InvalidInputError(
            f"{path} is a saved report or op list, not a config.",
            hint="price-model reads it; give trace-model the model that it was made from.",
        )
    # A sibling belongs to this config only under its usual name; a folder may hold many other JSON files.
    sibling = path.parent / QUANT_NAME
    quant = _read_optional(sibling) if path.name == CONFIG_NAME else {}
    return ConfigFile(source=str(path), config=config, quant=quant)


def _read_optional(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}


def _read_hub(model_id: str, revision: str | None) -> ConfigFile:
    if (
        not _HUB_ID.fullmatch(model_id)
        or len(model_id) > 96
        or ".." in model_id
        or "--" in model_id
    ):
        raise InvalidInputError(
            f"{model_id!r} is neither an existing path nor a Hub id.",
            hint="A Hub id is owner/name, for example Qwen/Qwen3-8B.",
        )
    path, online = _hub_file(model_id, CONFIG_NAME, revision)
    if path is None:
        raise ModelNotFoundError(
            f"{model_id} has no {CONFIG_NAME} on the Hub.",
            hint="Diffusion pipelines and weight-only repositories (GGUF) cannot be traced.",
        )
    quant_path, _ = _hub_file(model_id, QUANT_NAME, revision, online=online)
    quant = read_json_object(quant_path, shown=f"{model_id}/{QUANT_NAME}") if quant_path else {}
    config = read_json_object(path, shown=f"{model_id}/{CONFIG_NAME}")
    notes = () if online else (f"the Hub was not reached: {model_id} comes from the local cache",)
    return ConfigFile(
        source=f"{model_id}@{path.parent.name}", config=config, quant=quant, notes=notes
    )


def _hub_file(
    model_id: str, name: str, revision: str | None, *, online: bool = True
) -> tuple[Path | None, bool]:
    """The cached or downloaded file (None when the repository lacks it), and whether the Hub answered.

    One request without retries comes first: `hf_hub_download` alone retries an unreachable Hub for 23 s.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        if online:
            url = hf_hub_url(model_id, name, revision=revision)
            get_hf_file_metadata(url, timeout=HUB_TIMEOUT_S)
        local_only = not online
    except hub.EntryNotFoundError:
        return None, True
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.HFValidationError) as error:
        raise _hub_refusal(model_id, revision, error) from error
    except (hub.HfHubHTTPError, OSError) as error:
        local_only, reason = True, error
    except Exception as error:  # noqa: BLE001 - httpx and requests have their own trees: all mean unreachable
        local_only, reason = True, error
    try:
        path = hf_hub_download(
            model_id,
            name,
            revision=revision,
            etag_timeout=HUB_TIMEOUT_S,
            local_files_only=local_only,
        )
    except (hub.LocalEntryNotFoundError, OSError) as error:
        if not online:
            return None, False
        cause = reason if local_only else error
        raise ModelNotFoundError(
            f"{model_id} is no local path, is not in the local cache, and the Hub cannot be reached "
            f"({type(cause).__name__}: {_first_line(cause)}).",
            hint="Check the network (HF_HUB_OFFLINE, HF_ENDPOINT), or give a folder or a config.json.",
        ) from cause
    return Path(path), not local_only


def _hub_refusal(model_id: str, revision: str | None, error: Exception) -> ModelNotFoundError:
    from huggingface_hub import errors as hub

    if isinstance(error, hub.GatedRepoError):
        return ModelNotFoundError(
            f"{model_id} is gated on the Hub: access needs a token.",
            hint="Accept its terms on the Hub and run `hf auth login`, or set HF_TOKEN.",
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return ModelNotFoundError(
            f"{model_id} has no revision {revision!r}.",
            hint="Give a branch, tag or commit that exists.",
        )
    return ModelNotFoundError(
        f"{model_id} is neither a local path nor a repository on the Hub that this token can see.",
        hint="Check the spelling (owner/name); private repositories need `hf auth login` or HF_TOKEN.",
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:200].replace(os.linesep, " ")
