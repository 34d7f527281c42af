"""Layers of the knots of one op: its knots once for each regime, and for each value of what its sizes imply.

Neither changes gradually from one knot to the next, so a place between knots asks those of its own layer.

Letters: q queries, c coordinates that are implied.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy

from oplib.arithmetic import Amount
from oplib.kind import OpKind
from oplib.params import Params
from perfdb.arrays import Floats, Ints, distinct, numbered
from perfdb.regimes import Sides


class Layers:
    """Numbers of layers, from 0; those of regimes are there from the start, others once a query lies in them."""

    def __init__(self, kind: OpKind, params: Params, sides: Sides | None) -> None:
        self._kind, self._params, self._sides = kind, params, sides
        # By regime, where there are several, and by what is implied.
        self._numbers: dict[tuple[float, ...], int] = {}

    def __len__(self) -> int:
        regimes = 1 if self._sides is None else len(self._sides.regimes)
        return max(len(self._numbers), regimes)

    def number(self, dims: Mapping[str, Amount]) -> Ints | None:
        """The layer in which each query lies; None where there is only one."""
        side: Ints | None = None
        if self._sides is not None:
            side = self._sides.number(self._kind.regime(self._params, dims))
        if not self._kind.implied:
            return side
        keys = self.implied(dims)
        shape = keys.shape[:-1]
        if side is not None:
            keys = numpy.concatenate([numpy.broadcast_to(side, shape)[..., None], keys], axis=-1)
        keys = keys.reshape(-1, keys.shape[-1])
        codes = numpy.zeros(len(keys), dtype=numpy.intp)
        for column in keys.T:
            values = distinct(column)
            codes = numbered(codes * len(values) + numpy.searchsorted(values, column))
        one_of = numpy.zeros(codes.max(initial=-1) + 1, dtype=numpy.intp)  # a query of each key
        one_of[codes] = numpy.arange(len(codes))
        layers = [
            self._numbers.setdefault(tuple(key), len(self._numbers))
            for key in keys[one_of].tolist()
        ]
        return numpy.array(layers, dtype=numpy.intp)[codes].reshape(shape)

    def implied(self, dims: Mapping[str, Amount]) -> Floats:
        """The coordinates [..., c] that sizes imply, as logarithms."""
        found = self._kind.imply(self._params, dims)
        columns = [numpy.asarray(found[name], dtype=float) for name in self._kind.implied]
        logs: Floats = numpy.log2(numpy.stack(numpy.broadcast_arrays(*columns), axis=-1))
        return logs

    def sides(self, layers: Ints) -> Ints | None:
        """The regime of each layer; None where there is only one."""
        if self._sides is None:
            return None
        return self._keys(layers)[:, 0].astype(numpy.intp) if self._kind.implied else layers

    def coordinates(self, layers: Ints) -> Floats:
        """The logarithms [n, c] of what is implied in each layer."""
        return self._keys(layers)[:, 0 if self._sides is None else 1 :]

    def _keys(self, layers: Ints) -> Floats:
        found: Floats = numpy.array(list(self._numbers))[layers]
        return found
