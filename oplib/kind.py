"""OpKind: what every file of `oplib/ops` fills in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from oplib.arithmetic import Amount
from oplib.errors import InvalidInputError
from oplib.params import Param, Params, ParamValue, Required
from oplib.table_format import TableFormat

Dims: TypeAlias = Mapping[str, Amount]
Role: TypeAlias = Literal["compute", "attention", "memory", "communication", "scan", "moe"]

HEADINGS = (
    "Computes",
    "Shapes",
    "FLOPs",
    "Bytes",
    "Weights",
    "Valid range",
    "Error",
    "Source",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An op inside a module: its kind, complete parameters and dims, and how many of it a call runs."""

    kind: OpKind
    params: Params
    dims: Dims
    times: Amount = 1


#: The parts of a module, once for each way to compute it.
Ways: TypeAlias = tuple[tuple[Part, ...], ...]


class Listed(Protocol):
    """An op of a list, as far as a module has to know it to recognise its parts."""

    @property
    def op(self) -> str:
        """The name of its kind."""

    @property
    def params(self) -> Params:
        """Its complete parameters."""


class OpKind(ABC):
    """A family of operations that one measured table describes.

    A fused multiply-add is 2 FLOPs. `bytes` counts each tensor once: activations read and written, weights read
    in the bits of their quantisation mode, caches and states read and written. What stays inside a kernel counts
    nothing. The formulas use ordinary arithmetic and `oplib.arithmetic`, so they take numbers, arrays and symbols.
    """

    name: ClassVar[str]
    role: ClassVar[Role]
    params: ClassVar[tuple[Param, ...]]
    dims: ClassVar[tuple[str, ...]]
    #: Whether torch's FLOP counter sees the operators that a model's code runs for this kind. Scans and short
    #: convolutions stay whole in the counted forward: their work is reported as uncounted.
    counted: ClassVar[bool] = True
    #: Parameters and dims between whose measured values times are interpolated; the other parameters must match.
    #: A kind that names none has its dims.
    coordinates: ClassVar[tuple[str, ...]] = ()
    #: Coordinates that are neither but follow from both, as `imply` says. They jump between sizes, so that nothing is
    #: interpolated along them at a workload: it has its own.
    implied: ClassVar[tuple[str, ...]] = ()
    #: Whether a call is one kernel whose time is a floor plus its work: the shortest rows of a table show the floor.
    shows_floor: ClassVar[bool] = False
    #: Whether a place counts as between rows only where one row is at least as large in all coordinates, and one at
    #: most: tables that stop at so many tokens in all have none in the corner where every size is large.
    jointly: ClassVar[bool] = False
    #: Parameters that hardly change the time: a table without their column, or with another value, still answers.
    immaterial: ClassVar[tuple[str, ...]] = ()
    #: Of a module: the phase that it runs in, and the kinds one op of which every set of its parts has.
    phase: ClassVar[str] = ""
    cores: ClassVar[tuple[str, ...]] = ()
    #: Parameters that an op may give as dims instead, when they depend on the lengths.
    dim_params: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not cls.coordinates:
            cls.coordinates = getattr(cls, "dims", ())  # a body that kinds share may have none

    @abstractmethod
    def flops(self, params: Params, dims: Dims) -> Amount:
        """Work of one occurrence. `params` are complete: defaults filled in."""

    @abstractmethod
    def bytes(self, params: Params, dims: Dims) -> Amount:
        """Bytes moved by one occurrence."""

    def link_bytes(self, params: Params, dims: Dims, *, switch_reduces: bool = False) -> Amount:  # noqa: ARG002
        """Bytes that one GPU sends to the others in one occurrence; only communication kinds send any.

        `switch_reduces` says that the switch between the GPUs adds and copies what it passes on.
        """
        return 0

    def spread_bytes(
        self,
        params: Params,  # noqa: ARG002
        dims: Dims,  # noqa: ARG002
        *,
        joins: int,  # noqa: ARG002
        switch_reduces: bool = False,  # noqa: ARG002
    ) -> tuple[Amount, Amount]:
        """Of a group over several servers of `joins` GPUs, bytes that one GPU sends within its server and over the
        network between servers; only communication kinds send any."""
        return 0, 0

    @abstractmethod
    def compute_dtype(self, params: Params) -> str:
        """The dtype whose peak rate bounds the work."""

    @abstractmethod
    def grid(self) -> dict[str, tuple[int, ...]]:
        """Values of each dim that a table should have, for a model to count as measured."""

    def regime(self, params: Params, dims: Dims) -> Amount:  # noqa: ARG002
        """The number of the way in which kernels work at these sizes, where it changes from one size to the next and
        the bound does not tell; 0 where there is one. `params` lack those that interpolation runs over, and may lack
        what is immaterial."""
        return 0

    def imply(self, params: Params, dims: Dims) -> dict[str, Amount]:  # noqa: ARG002
        """The coordinates `implied` at complete parameters and sizes, each above 0: numbers or arrays."""
        return {}

    def named(self, params: Params, dims: Dims) -> dict[str, Any]:  # Any: values, numbers or arrays
        """Complete parameters, sizes and what they imply, by name."""
        return {**params, **dims, **self.imply(params, dims)}

    def worked(self, params: Params, dims: Dims) -> Dims:  # noqa: ARG002
        """The sizes that kernels work through, where they are more than those asked, as whole chunks of tokens are:
        measured times are set against the bound of these. `params` are complete."""
        return dims

    def between(self) -> dict[str, tuple[int, ...]]:
        """More values for a table that is measured anew: batches between powers of two, sizes off kernels' tiles."""
        return {}

    def ways(self, params: Params, dims: Dims) -> Ways:  # noqa: ARG002 - only modules have any
        """The ways to compute an op that is a module of other ops; none where it is one kernel.

        The bound of a module is the sum of its parts' own bounds, by the way with the least of it.
        """
        return ()

    def recognise(self, ops: Sequence[Listed]) -> tuple[dict[str, ParamValue], ...]:
        """Of a module: the parameters that it would have if it stood for these ops of one module of a model, or for
        those of them that its parts are, the most of them first. InvalidInputError says why it cannot."""
        raise InvalidInputError(f"{self.name} stands for no other ops, not for {len(ops)}.")

    def check(self, params: Params) -> None:  # noqa: B027 - most kinds have nothing to add
        """Reject complete parameters that fit alone but not together."""

    @property
    def table_columns(self) -> tuple[str, ...]:
        """Key columns of the measured table: the parameters, then the dims."""
        return (*(param.name for param in self.params), *self.dims)

    @property
    def table_format(self) -> TableFormat:
        """How files of measurements spell this kind; our own tables are written so."""
        return TableFormat(stem=f"{self.name}_perf")

    @property
    def table_formats(self) -> tuple[TableFormat, ...]:
        """Every file that holds rows of this kind, the one that is asked first in front; never two of one stem."""
        return (self.table_format,)

    def complete(self, params: Params, dims: Dims | None = None) -> dict[str, ParamValue]:
        """Checked `params` with the defaults filled in, in the order of declaration."""
        given_as_dims = {name for name in self.dim_params if name in (dims or {})}
        known = {param.name for param in self.params} - given_as_dims
        if unknown := sorted(set(params) - known):
            raise InvalidInputError(
                f"{self.name} has no parameter {', '.join(unknown)}.",
                f"It takes {', '.join(param.name for param in self.params)}.",
            )
        complete: dict[str, ParamValue] = {}
        for param in self.params:
            if param.name in params:
                complete[param.name] = param.check(params[param.name], self.name)
            elif param.name not in given_as_dims:
                if isinstance(param.default, Required):
                    raise InvalidInputError(
                        f"{self.name} needs the parameter {param.name}.", f"It is: {param.doc}."
                    )
                complete[param.name] = param.default
        self.check(complete)
        return complete

    def validate(self, params: Params, dims: Dims) -> dict[str, ParamValue]:
        """The complete parameters of an op; InvalidInputError unless `params` and the names of `dims` describe one."""
        allowed = {*self.dims, *self.dim_params}
        missing = [name for name in self.dims if name not in dims]
        if missing or set(dims) - allowed:
            raise InvalidInputError(
                f"{self.name} got the dims {', '.join(dims) or 'none'}.",
                f"It takes {', '.join(self.dims)}.",
            )
        return self.complete(params, dims)

    def size(self, name: str, params: Params, dims: Dims) -> Amount:
        """A size that `dim_params` lets an op give either as a parameter or as a dim."""
        return dims[name] if name in dims else params[name]
