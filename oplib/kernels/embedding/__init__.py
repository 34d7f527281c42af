"""Rows looked up in a table that was not touched lately.

Inputs: ids[m], drawn evenly, and table[num_embeddings, embedding_dim].
"""

from __future__ import annotations

from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Sizes
from oplib.params import Params, integer, text

EXAMPLES = (({"num_embeddings": 33, "embedding_dim": 47, "dtype": "bfloat16"}, {"m": 5}),)


def inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """ids and table."""
    rows = integer(params, "num_embeddings")
    shape = (rows, integer(params, "embedding_dim"))
    return {
        "ids": source.integers((dims["m"],), rows),
        "table": source.weight(shape, DTYPES[text(params, "dtype")]),
    }
