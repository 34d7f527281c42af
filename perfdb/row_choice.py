"""Which rows count where a table has several for one place.

Rows of one key (parameters and dims) with one fingerprint (framework, version, device, kernel) are repetitions: the
median counts, the lower one of an even number, so that what counts was measured. Rows of one key with different
fingerprints are never averaged: the fastest counts, as the engines choose among their kernels by measuring them, and
graph replay against eager launches is the engine's choice as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from perfdb.arrays import Ints, numbered
from perfdb.columns import Codes, code_of, codes_of
from perfdb.tables import Table


def keys_of(tables: Sequence[Table], names: Sequence[str]) -> list[Ints]:
    """A number per row of each table, the same for rows that agree in the parameters and dims `names`."""
    counts = [len(table) for table in tables]
    keys = numpy.zeros(sum(counts), dtype=numpy.intp)
    for name in names:
        column = numpy.concatenate([table.columns[name] for table in tables])
        codes, distinct = codes_of(column)
        if distinct > 1:
            keys = numbered(keys * distinct + codes)
    return numpy.split(keys, numpy.cumsum(counts)[:-1])


def key_of(table: Table) -> Ints:
    """A number per row, the same for rows of one key."""
    kind = table.kind
    codes = code_of([table.params[param.name] for param in kind.params], len(table))
    keys: Ints = codes.astype(numpy.intp)
    for dim in kind.dims:
        codes, distinct = codes_of(table.dims[dim])
        keys = numbered(keys * distinct + codes)
    return keys


def fingerprint_of(table: Table) -> Codes:
    """A number per row, the same for rows that the same kernel of the same engine on the same GPU ran."""
    return code_of(list(table.fingerprint.values()), len(table))


def rows_that_count(table: Table) -> Ints:
    """The place of one row per key, in the order of the file."""
    keys, kernels = key_of(table), fingerprint_of(table)
    order = numpy.lexsort((table.latency, kernels, keys))
    both = numpy.stack([keys[order], kernels[order]], axis=1)
    first = numpy.flatnonzero(numpy.any(numpy.diff(both, axis=0, prepend=-1), axis=1))
    sizes = numpy.diff(first, append=len(order))
    medians = order[first + (sizes - 1) // 2]
    fastest = medians[numpy.lexsort((table.latency[medians], keys[medians]))]
    kept = numpy.flatnonzero(numpy.diff(keys[fastest], prepend=-1))
    return numpy.sort(fastest[kept])
