"""Errors that users and callers see.

The tree (the exit status of a command in brackets; `kind` is the word in the `--json` error object):

    TraceModelError [1]
    ├── InvalidInputError [2]              also a ValueError: the request itself cannot be answered
    │   ├── ModelNotFoundError             the model path names nothing that can be read
    │   ├── UnsupportedModelError          the configuration is readable, no model can be built from it
    │   ├── OpListFormatError              an op list or an expression in it cannot be read
    │   ├── UnknownOpKindError             no file of oplib/ops defines this name
    │   ├── UnknownSystemError             no file of perfdb/systems defines this name
    │   ├── UnknownBackendError            no tables of this serving engine on this system
    │   └── UnknownVersionError            no tables of this version of the engine on this system
    ├── DuplicateNameError [1]             two files define one name: our mistake, not the user's
    └── PerfDataNotAvailableError [1]      the request is fine, no measurement answers it

A message says what failed, with which values, and what would be allowed; `hint` is the next step.
"""

from __future__ import annotations

from typing import ClassVar


class TraceModelError(Exception):
    """Base of every error this project raises on purpose."""

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message

    def to_json(self) -> dict[str, str]:
        """The object under `error` in the `--json` output of every command."""
        return {"kind": self.kind, "message": self.message, "hint": self.hint}


class InvalidInputError(TraceModelError, ValueError):
    """The request cannot be answered as asked: a wrong value, name or file."""

    kind = "invalid_input"
    exit_code = 2


class ModelNotFoundError(InvalidInputError):
    """The model path is no local folder, no config file and no known Hub id."""

    kind = "model_not_found"


class UnsupportedModelError(InvalidInputError):
    """The configuration can be read, but no decoder model can be built from it."""

    kind = "unsupported_model"


class OpListFormatError(InvalidInputError):
    """An op list, one of its ops, or one of its expressions cannot be read."""

    kind = "op_list_format"


class UnknownOpKindError(InvalidInputError):
    """No op kind has this name."""

    kind = "unknown_op_kind"


class UnknownSystemError(InvalidInputError):
    """No system has this name."""

    kind = "unknown_system"


class UnknownBackendError(InvalidInputError):
    """No serving engine of this name has tables on the system."""

    kind = "unknown_backend"


class UnknownVersionError(InvalidInputError):
    """The serving engine has no tables of this version on the system."""

    kind = "unknown_version"


class DuplicateNameError(TraceModelError):
    """Two files of one registry folder define the same name."""

    kind = "duplicate_name"


class PerfDataNotAvailableError(TraceModelError):
    """No measurement answers the request under the mode that was asked for."""

    kind = "perf_data_not_available"
