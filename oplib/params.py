"""Parameters of op kinds: their names, types, defaults and allowed values, and those that several kinds share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from oplib.dtypes import FLOAT_DTYPES, QUANT_MODES
from oplib.errors import InvalidInputError

ParamValue: TypeAlias = int | float | str | bool | None
Params: TypeAlias = Mapping[str, ParamValue]


class Required:
    """The type of REQUIRED: a parameter without a default."""

    def __repr__(self) -> str:
        return "required"


REQUIRED: Final = Required()


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """One parameter of an op kind: part of its identity, the same for every workload."""

    name: str
    type: type[int] | type[float] | type[str] | type[bool]
    doc: str
    default: ParamValue | Required = REQUIRED
    allowed: tuple[str, ...] = ()
    minimum: int = 1

    def check(self, value: ParamValue, kind: str) -> ParamValue:
        """`value` if it is allowed here (an int is taken for a float); else an InvalidInputError."""
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        where = f"Parameter {self.name} of {kind}"
        if type(value) is not self.type:
            raise InvalidInputError(
                f"{where} is {value!r}, a {type(value).__name__}.",
                f"It takes {self.type.__name__}: {self.doc}.",
            )
        if self.allowed and value not in self.allowed:
            raise InvalidInputError(
                f"{where} is {value!r}.", f"Allowed: {', '.join(self.allowed)}."
            )
        if isinstance(value, int | float) and self.type is not bool and not value >= self.minimum:
            raise InvalidInputError(f"{where} is {value}.", f"It is at least {self.minimum}.")
        return value


def integer(params: Params, name: str) -> int:
    """An integer parameter of checked `params`."""
    value = params[name]
    assert isinstance(value, int), (name, value)
    return value


def text(params: Params, name: str) -> str:
    """A text parameter of checked `params`."""
    value = params[name]
    assert isinstance(value, str), (name, value)
    return value


def flag(params: Params, name: str) -> bool:
    """A true or false parameter of checked `params`."""
    return bool(params[name])


QUANT_MODE = Param(
    name="dtype", type=str, doc="quantisation mode of the product", allowed=tuple(QUANT_MODES)
)
GROUP_SIZE = Param(
    name="group_size",
    type=int,
    default=0,
    minimum=0,
    doc="elements or block side per weight scale; 0: the mode's own",
)
ACTIVATION_DTYPE = Param(
    name="dtype", type=str, doc="dtype of activations and of the product", allowed=FLOAT_DTYPES
)
KV_DTYPE = Param(name="kv_dtype", type=str, doc="dtype of the cache", allowed=FLOAT_DTYPES)
STATE_DTYPE = Param(
    name="state_dtype", type=str, doc="dtype of the recurrent state", allowed=FLOAT_DTYPES
)
CAUSAL = Param(name="causal", type=bool, default=True, doc="no key after its query is seen")
WINDOW = Param(
    name="window",
    type=int,
    default=0,
    minimum=0,
    doc="keys a query sees at most, itself included; 0: all",
)
WHOLE_CACHE = Param(
    name="whole_cache",
    type=bool,
    default=False,
    doc="the cache keeps the tokens that window or chunk hide, and computed masking works on them",
)
CACHE_LIMIT = Param(
    name="cache_limit",
    type=int,
    default=0,
    minimum=0,
    doc="tokens that the cache keeps at most where window or chunk hide fewer; 0: what they leave",
)
MASKING = Param(
    name="masking",
    type=str,
    default="skipped",
    doc="whether masked pairs are computed (eager code) or skipped (fused kernels)",
    allowed=("computed", "skipped"),
)
PHASE = Param(
    name="phase",
    type=str,
    doc="context runs the chunked form, generation one recurrent step per token",
    allowed=("context", "generation"),
)
