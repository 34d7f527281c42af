"""The contract of every op kind: names, headings, parameters, grids, and one place per name."""

import inspect
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from oplib import errors
from oplib.dtypes import QUANT_MODES
from oplib.errors import DuplicateNameError, InvalidInputError, TraceModelError
from oplib.kind import HEADINGS, OpKind
from oplib.op import kind, op_kinds
from oplib.params import Required
from oplib.registry import collect

HERE = Path(__file__).parent
NAMES = (
    "all_gather",
    "all_reduce",
    "all_to_all",
    "bmm",
    "causal_conv1d",
    "compressed_attention",
    "context_attention",
    "context_dsa_module",
    "context_mla",
    "context_mla_module",
    "conv1d",
    "embedding",
    "gated_delta_rule",
    "gemm",
    "generation_attention",
    "generation_dsa_module",
    "generation_mla",
    "generation_mla_module",
    "grouped_gemm",
    "linear_attention",
    "mamba1",
    "mamba2",
    "mlstm",
    "moe",
    "p2p",
    "pointwise",
    "reduce_scatter",
    "rg_lru",
    "sparse_attention",
    "sparse_indexer",
    "wkv",
)
KINDS = [pytest.param(op_kind, id=name) for name, op_kind in op_kinds().items()]
each_kind = pytest.mark.parametrize("op_kind", KINDS)


def test_names_are_reviewed():
    """A kind that appears or disappears shows up here."""
    assert tuple(op_kinds()) == NAMES


@each_kind
def test_a_kind_lives_in_the_file_of_its_name(op_kind):
    """One kind, one file, one test table."""
    path = Path(inspect.getfile(type(op_kind)))
    assert path.stem == op_kind.name
    assert (HERE / f"test_{op_kind.name}.py").exists()
    assert op_kind.name == op_kind.name.lower()


def sections(op_kind):
    """heading -> text of a docstring."""
    doc = inspect.cleandoc(type(op_kind).__dict__["__doc__"])
    parts = re.split(r"^(\w[\w ]*):$", doc, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


@each_kind
def test_headings(op_kind):
    """The fixed headings, in order, none empty; the source is a URL."""
    found = sections(op_kind)
    assert tuple(found) == HEADINGS
    assert all(found.values())
    assert "https://" in found["Source"]
    assert re.search(r"v\d|\d\.\d|\d{4}", found["Source"]), "a source has a version or a year"


@each_kind
def test_docs_say_what_is_ignored(op_kind):
    """FLOPs and Bytes state their limits."""
    found = sections(op_kind)
    assert "ignored" in found["FLOPs"]
    assert "ignored" in found["Bytes"]


@each_kind
def test_parameters_and_dims(op_kind):
    """Names are distinct words, docs are there, defaults pass their own check."""
    names = op_kind.table_columns
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)
    for param in op_kind.params:
        assert param.doc
        assert not param.doc.endswith(".")
        if not isinstance(param.default, Required):
            assert param.check(param.default, op_kind.name) == param.default
    assert op_kind.dims


@each_kind
def test_grid_covers_the_dims(op_kind):
    """Every dim has increasing values to collect."""
    grid = op_kind.grid()
    assert set(grid) == set(op_kind.dims)
    assert all(list(values) == sorted(set(values)) and values for values in grid.values())


def test_context_and_generation_take_the_same_parameters():
    """One implementation, two names: a case of one is a case of the other."""
    for family in ("attention", "mla"):
        context, generation = kind(f"context_{family}"), kind(f"generation_{family}")
        assert context.params is generation.params
        assert type(context).flops is type(generation).flops
        assert type(context).bytes is type(generation).bytes


def test_a_duplicate_name_stops_with_both_files():
    """Two files, one name: the error shows both."""
    modules = []
    for file in ("first.py", "second.py"):
        module = types.ModuleType(file[:-3])
        module.__file__ = file
        body = {"name": "gemm", "__module__": module.__name__}
        module.Gemm = type("Gemm", (type(kind("gemm")),), body)
        modules.append(module)
    with pytest.raises(DuplicateNameError, match=r"'gemm'.*first\.py.*second\.py"):
        collect(modules)


def test_a_base_class_is_no_kind():
    """Abstract classes and imported ones are passed over."""
    module = types.ModuleType("some")
    module.OpKind, module.Gemm = OpKind, type(kind("gemm"))
    assert collect([module]) == {}


def test_compute_dtypes_are_known():
    """A kind computes in a dtype that quantisation modes name too."""
    for op_kind in op_kinds().values():
        dtypes = next((param.allowed for param in op_kind.params if param.name == "dtype"), ())
        for dtype in set(dtypes) & set(QUANT_MODES):
            params = {"dtype": dtype, "phase": "context"}
            assert op_kind.compute_dtype(params) in QUANT_MODES


def test_errors_are_told_apart():
    """Every class has its own word; bad input exits 2 and is a ValueError."""
    classes = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, TraceModelError)
    ]
    assert len({cls.kind for cls in classes}) == len(classes)
    for cls in classes:
        assert cls.__name__ in errors.__doc__
        error = cls("It failed.", "Try this.")
        assert str(error) == "It failed. Try this."
        assert str(cls("It failed.")) == "It failed."
        assert error.to_json() == {
            "kind": cls.kind,
            "message": "It failed.",
            "hint": "Try this.",
        }
        assert (cls.exit_code == 2) == issubclass(cls, InvalidInputError)
        assert issubclass(cls, ValueError) == issubclass(cls, InvalidInputError)


def test_needs_no_torch():
    """Pricing a saved op list does not pay for torch, nor for numpy until an array comes in."""
    code = (
        "import sys, oplib.oplist; from oplib.op import op_kinds; op_kinds();"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE.parents[1])
