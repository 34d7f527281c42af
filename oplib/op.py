"""Op: one priced unit of a model, symbolic in the workload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from oplib.arithmetic import Amount
from oplib.cost import Cost
from oplib.errors import InvalidInputError, OpListFormatError
from oplib.kind import OpKind
from oplib.params import Param, ParamValue
from oplib.registry import kind, op_kinds
from oplib.spelled import Spelled, Term, of

if TYPE_CHECKING:
    import sympy

__all__ = ["Op", "OpKind", "Param", "kind", "op_kinds"]

Json = dict[str, Any]  # Any: an object decoded from JSON

#: By parameter, dim or "weight_bytes": by the number of parts, how much is dealt in so many.
Shards: TypeAlias = "Mapping[str, Mapping[int, sympy.Expr]]"

STAGES = ("", "first", "last")
PARALLEL = ("", "column", "row", "heads", "experts", "vocabulary", "split")
COLLECTIVES = ("", "all_reduce", "all_gather", "joined")


class Priced(Protocol):
    """What prices an op: a `perfdb.database.PerfDatabase`."""

    def query(self, op: Op, *, b: Amount, s: Amount, p: Amount) -> Any:  # Any: its results
        """All occurrences of the op at a workload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One op: a kind, its parameters, and dims in b, s, p.

    FLOPs, bytes and `weight_bytes` are for one occurrence; `count` says how often it occurs in a phase. `params`
    may leave defaults out and are completed here; dims may be numbers. `layer` is the stack and the representative
    index, `model.layers.0`, and empty outside the stacks.

    How it is split over tensor-parallel ranks: `parallel` is "" (each rank does all of it), "column" (output features),
    "row" (input features), "heads", "experts", "vocabulary" (rows of a table) or "split" (whatever features its inputs
    have). `shards` says of parameters, dims and "weight_bytes" how much of each is dealt in how many equal parts that
    are never cut; the rest is on every rank. `collective` is what follows: "all_reduce" of partial sums, "all_gather",
    "joined" where the partial sums go into the next op's all_reduce, or "" for nothing; `message` is the bytes of the
    value it completes.

    `stage` says of an op outside the layers that its model keeps it on the "first" or the "last" pipeline stage; empty
    where the model does not say.
    """

    op: str
    name: str
    count: int = 1
    params: Mapping[str, ParamValue]
    dims: Mapping[str, sympy.Expr]
    weight_bytes: int = 0
    where: tuple[str, ...] = ()
    source: str = ""
    rewrites: tuple[str, ...] = ()
    layer: str = ""
    parallel: str = ""
    shards: Shards = field(default_factory=dict)
    collective: str = ""
    message: Amount = 0
    stage: str = ""
    kind: OpKind = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        op_kind = kind(self.op)
        if self.count < 0 or self.weight_bytes < 0:
            raise InvalidInputError(
                f"{self.op} {self.name!r} has count {self.count} and weight_bytes "
                f"{self.weight_bytes}.",
                "Neither is negative.",
            )
        if self.parallel not in PARALLEL or self.collective not in COLLECTIVES:
            raise InvalidInputError(
                f"{self.op} {self.name!r} has parallel {self.parallel!r}, collective "
                f"{self.collective!r}.",
                f"Known: {', '.join(PARALLEL[1:])}; {', '.join(COLLECTIVES[1:])}; or empty.",
            )
        if self.stage not in STAGES:
            raise InvalidInputError(
                f"{self.op} {self.name!r} has stage {self.stage!r}.",
                f"Known: {', '.join(STAGES[1:])}; or empty.",
            )
        params = op_kind.validate(self.params, self.dims)
        object.__setattr__(self, "kind", op_kind)
        object.__setattr__(self, "params", params)
        object.__setattr__(self, "dims", of(self.dims))

    @property
    def flops(self) -> sympy.Expr:
        """Work of one occurrence as an expression in b, s, p."""
        from sympy import sympify

        return sympify(self.kind.flops(self.params, self.dims))

    @property
    def bytes(self) -> sympy.Expr:
        """Bytes moved by one occurrence as an expression in b, s, p."""
        from sympy import sympify

        return sympify(self.kind.bytes(self.params, self.dims))

    def dims_at(self, *, b: Amount, s: Amount, p: Amount) -> dict[str, Amount]:
        """The dims at a workload, as numbers or arrays."""
        if isinstance(self.dims, Spelled):
            return self.dims.at(b=b, s=s, p=p)
        from oplib.symbols import evaluate

        return {name: evaluate(dim, b=b, s=s, p=p) for name, dim in self.dims.items()}

    def flops_at(self, *, b: Amount, s: Amount = 1, p: Amount = 0) -> Amount:
        """Work of one occurrence at a workload, computed from the dims without building an expression."""
        return self.kind.flops(self.params, self.dims_at(b=b, s=s, p=p))

    def bytes_at(self, *, b: Amount, s: Amount = 1, p: Amount = 0) -> Amount:
        """Bytes moved by one occurrence at a workload."""
        return self.kind.bytes(self.params, self.dims_at(b=b, s=s, p=p))

    def cost_at(self, *, b: Amount, s: Amount = 1, p: Amount = 0) -> Cost:
        """Cost of all occurrences at a workload."""
        dims = self.dims_at(b=b, s=s, p=p)
        return self.count * Cost(
            flops=self.kind.flops(self.params, dims),
            bytes=self.kind.bytes(self.params, dims),
            weight_bytes=self.weight_bytes,
        )

    @property
    def axes(self) -> tuple[str, ...]:
        """What the cost varies with: ("x",) if b and s only occur as x = b*s, else those of b, s, p that occur."""
        from oplib.symbols import B, P, S

        used = set().union(*(dim.free_symbols for dim in self.dims.values()))
        if {B, S} == used and all(_only_product(dim) for dim in self.dims.values()):
            return ("x",)
        return tuple(str(symbol) for symbol in (B, S, P) if symbol in used)

    @property
    def symbols(self) -> frozenset[str]:
        """Those of b, s and p that occur in the dims."""
        if isinstance(self.dims, Spelled):
            return self.dims.symbols
        return frozenset(str(name) for dim in self.dims.values() for name in dim.free_symbols)

    @property
    def scale_factor(self) -> int:
        """How many occurrences one phase runs."""
        return self.count

    def get_weights(self) -> int:
        """Weight bytes of all occurrences."""
        return self.weight_bytes * self.count

    def query(
        self,
        db: Priced,
        x: Amount | None = None,
        *,
        batch_size: Amount = 1,
        s: Amount = 1,
        prefix: Amount = 0,
        beam_width: int = 1,
    ) -> Any:  # Any: the database's results
        """What all occurrences take, as a result of `db`; an array of results where a size is an array.

        `batch_size` sequences, each with `s` new tokens over `prefix` cached ones; each of `beam_width` beams is a
        sequence of its own. `x` new tokens in all, where they are given, replace batch_size*s in an op that varies
        with their product alone.
        """
        sequences = batch_size * beam_width
        if x is not None and self.axes == ("x",):
            return db.query(self, b=x, s=1, p=prefix)
        return db.query(self, b=sequences, s=s, p=prefix)

    def to_json(self) -> Json:
        """The OP object of an op list."""
        from sympy import sympify

        from oplib.symbols import format_expr

        return {
            "op": self.op,
            "name": self.name,
            "count": self.count,
            "params": dict(self.params),
            "dims": {name: format_expr(dim) for name, dim in self.dims.items()},
            "axes": list(self.axes),
            "flops": format_expr(self.flops),
            "bytes": format_expr(self.bytes),
            "weight_bytes": self.weight_bytes,
            "where": list(self.where),
            "source": self.source,
            "rewrites": list(self.rewrites),
            "layer": self.layer,
            "parallel": self.parallel,
            "shards": {
                name: {str(parts): format_expr(sympify(size)) for parts, size in dealt.items()}
                for name, dealt in self.shards.items()
            },
            "collective": self.collective,
            "message": format_expr(sympify(self.message)),
            "stage": self.stage,
        }

    @classmethod
    def from_json(cls, data: Json) -> Op:
        """The op that `to_json` wrote. `axes`, `flops` and `bytes` follow from the rest and are not read."""
        try:
            return cls(
                op=_typed(data, "op", str),
                name=_typed(data, "name", str),
                count=_typed(data, "count", int),
                params=_typed(data, "params", dict),
                dims=Spelled.read(_typed(data, "dims", dict)),
                weight_bytes=_typed(data, "weight_bytes", int, 0),
                where=_texts(data, "where"),
                source=_typed(data, "source", str, ""),
                rewrites=_texts(data, "rewrites"),
                layer=_typed(data, "layer", str, ""),
                parallel=_typed(data, "parallel", str, ""),
                shards=_shards(data),
                collective=_typed(data, "collective", str, ""),
                message=Term.read(data.get("message", 0)),
                stage=_typed(data, "stage", str, ""),
            )
        except OpListFormatError:
            raise
        except InvalidInputError as error:
            label = data.get("name") if isinstance(data, dict) else data
            raise OpListFormatError(f"Op {label!r}: {error.message}", error.hint) from error


def _only_product(dim: sympy.Expr) -> bool:
    """Whether b and s occur in `dim` only as b*s: writing x/b for s must remove b."""
    import sympy

    from oplib.symbols import B, S

    in_x = dim.xreplace({S: sympy.Symbol("x", integer=True, nonnegative=True) / B})
    return B not in in_x.free_symbols or B not in sympy.expand(in_x).free_symbols


def _typed(data: Any, key: str, type_: type, default: Any = None) -> Any:  # Any: decoded JSON
    if not isinstance(data, dict):
        raise OpListFormatError(f"An op is an object, not {type(data).__name__}.")
    value = data.get(key, default)
    if type(value) is not type_:
        raise OpListFormatError(
            f"Field {key!r} of an op is {value!r}.", f"It takes {type_.__name__}."
        )
    return value


def _texts(data: Any, key: str) -> tuple[str, ...]:  # Any: decoded JSON
    values = _typed(data, key, list, [])
    if not all(isinstance(value, str) for value in values):
        raise OpListFormatError(f"Field {key!r} of an op is {values!r}.", "It takes texts.")
    return tuple(values)


def _shards(data: Any) -> Shards:  # Any: decoded JSON
    found: dict[str, Mapping[int, Any]] = {}  # Any: expressions
    for name, dealt in _typed(data, "shards", dict, {}).items():
        if not isinstance(dealt, dict) or not all(parts.isdecimal() for parts in dealt):
            raise OpListFormatError(
                f"Field 'shards' of an op has {name!r}: {dealt!r}.",
                "It takes sizes by the number of parts.",
            )
        found[name] = Spelled.read({int(parts): size for parts, size in dealt.items()})
    return found
