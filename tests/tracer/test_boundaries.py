"""Each function boundary returns what the function it stands for returns: shapes, dtypes, and a state of the same form.

The references are transformers' own functions, one for each distinct source text among its modeling files, run on small
CPU tensors. Functions with a kernel that no boundary replaces are named here, with the reason.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tracer import boundaries
from tracer.boundaries.attention import attention

DECORATOR = "use_kernel_func_from_hub_with_fallback"
#: Functions with a kernel that stay as they are. Both give None without their package and run in training alone.
TRAINING_ONLY = {
    "mamba_inner_fn": "the whole Mamba 1 mixer in one kernel",
    "mamba2_split_conv1d_scan_combined": "convolution, scan, norm and output product of Mamba 2 in one kernel",
}
B, S, L = 2, 5, 1  # sequences, tokens of a context pass, tokens of a decode step
BF16, F32 = torch.bfloat16, torch.float32
Call = tuple[list[Any], dict[str, Any]]  # Any: what the functions take


@functools.cache
def modeling_files() -> dict[str, ast.Module]:
    """Modeling files with a kernel function, parsed, by the name of their module."""
    root = Path(transformers.__file__).parent
    found = {}
    for path in sorted(root.glob("models/*/modeling_*.py")):
        text = path.read_text(encoding="utf-8")
        if f"@{DECORATOR}" in text:
            found[f"transformers.models.{path.parent.name}.{path.stem}"] = ast.parse(text)
    return found


def kernel_functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Module name and definition of every function that transformers marks as a kernel."""
    for module, tree in modeling_files().items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and any(
                _is_kernel(d) for d in node.decorator_list
            ):
                yield module, node


def _is_kernel(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == DECORATOR


def references() -> list[Any]:
    """One (module, function name) for each distinct text of a function that a boundary replaces."""
    distinct = {}
    for module, node in kernel_functions():
        if node.name in boundaries._FUNCTIONS:
            distinct.setdefault((node.name, ast.unparse(node)), (module, node.name))
    return [pytest.param(m, n, id=f"{n}-{m.split('.')[2]}") for m, n in distinct.values()]


def tensor(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.rand(shape, dtype=F32).to(dtype)


def causal_conv1d_fn() -> Iterator[Call]:
    yield [tensor(B, 6, S), tensor(6, 4)], {"bias": tensor(6), "activation": "silu"}
    yield [tensor(B, 6, S), tensor(6, 4)], {}


def causal_conv1d_update() -> Iterator[Call]:
    for state in (BF16, F32):
        yield [tensor(B, 6, L), tensor(B, 6, 4, dtype=state), tensor(6, 4), tensor(6), "silu"], {}


def mamba_selective_scan() -> Iterator[Call]:
    channels, width = 6, 4
    x, dt, a = tensor(B, channels, S), tensor(B, channels, S), -tensor(channels, width, dtype=F32)
    b, c = tensor(B, width, S), tensor(B, width, S)
    for d in (F32, BF16):
        more = {
            "D": tensor(channels, dtype=d),
            "z": tensor(B, channels, S),
            "delta_bias": tensor(channels),
        }
        for last in (True, False):
            yield [x, dt, a, b, c], more | {"delta_softplus": True, "return_last_state": last}


def mamba_selective_state_update() -> Iterator[Call]:
    channels, width = 6, 4
    for state in (BF16, F32):
        tensors = [
            tensor(B, channels, width, dtype=state),
            tensor(B, channels),
            tensor(B, channels),
        ]
        tensors += [-tensor(channels, width, dtype=F32), tensor(B, width), tensor(B, width)]
        yield (
            tensors,
            {"D": tensor(channels, dtype=F32), "z": tensor(B, channels), "dt_softplus": True},
        )


def mamba2_chunk_scan() -> Iterator[Call]:
    heads, head_dim, groups, width = 4, 6, 2, 8
    x, dt, a = tensor(B, S, heads, head_dim), tensor(B, S, heads), -tensor(heads, dtype=F32)
    b, c = tensor(B, S, groups, width), tensor(B, S, groups, width)
    for initial in (
        None,
        tensor(B, heads, head_dim, width),
        tensor(B, heads, head_dim, width, dtype=F32),
    ):
        for last in (True, False):
            more = {"D": tensor(heads), "dt_bias": tensor(heads), "initial_states": initial}
            yield [x, dt, a, b, c, 4], more | {"dt_softplus": True, "return_final_states": last}


def mamba2_selective_state_update() -> Iterator[Call]:
    heads, head_dim, groups, width = 4, 6, 2, 8
    for state in (BF16, F32):
        tensors = [tensor(B, heads, head_dim, width, dtype=state), tensor(B, heads, head_dim)]
        tensors += [tensor(B, heads, head_dim), -tensor(heads, head_dim, width, dtype=F32)]
        tensors += [tensor(B, groups, width), tensor(B, groups, width)]
        yield (
            tensors,
            {"D": tensor(heads, head_dim), "dt_bias": tensor(heads, head_dim), "dt_softplus": True},
        )


def gated_delta_rule(tokens: int, *gate: int) -> Iterator[Call]:
    heads, key_dim, value_dim = 4, 6, 8
    q, k, v = (tensor(B, tokens, heads, d) for d in (key_dim, key_dim, value_dim))
    g, beta = -tensor(B, tokens, heads, *gate, dtype=F32), tensor(B, tokens, heads)
    for initial in (
        None,
        tensor(B, heads, key_dim, value_dim),
        tensor(B, heads, key_dim, value_dim, dtype=F32),
    ):
        for last in (True, False):
            yield [q, k, v, g, beta], {"initial_state": initial, "output_final_state": last}


CALLS: dict[str, Callable[[], Iterator[Call]]] = {
    "causal_conv1d_fn": causal_conv1d_fn,
    "causal_conv1d_update": causal_conv1d_update,
    "mamba_selective_scan": mamba_selective_scan,
    "mamba_selective_state_update": mamba_selective_state_update,
    "mamba2_chunk_scan": mamba2_chunk_scan,
    "mamba2_selective_state_update": mamba2_selective_state_update,
    "torch_chunk_gated_delta_rule": lambda: gated_delta_rule(S),
    "torch_recurrent_gated_delta_rule": lambda: gated_delta_rule(L),
    "chunk_kimi_delta_attention": lambda: gated_delta_rule(S, 6),
    "recurrent_kimi_delta_attention": lambda: gated_delta_rule(L, 6),
}


def form(value: Any) -> Any:
    """Shapes and dtypes of what a function returned, with its nesting."""
    if isinstance(value, tuple | list):
        return [form(v) for v in value]
    return (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else value


def on_meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, torch.Tensor) else value


def test_calls_cover_every_function_boundary() -> None:
    """A boundary without calls here, or in test_recurrences.py, would go unchecked."""
    assert set(CALLS) | {"rwkv_linear_attention"} == set(boundaries._FUNCTIONS)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_boundary_stands_for_a_kernel_function(name: str) -> None:
    """A name that transformers no longer has is a boundary that never runs."""
    if name not in {node.name for _, node in kernel_functions()}:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")


@pytest.mark.parametrize(("module", "name"), references())
def test_boundary_returns_the_form_of_its_reference(module: str, name: str) -> None:
    """What follows a boundary in a trace sees the shapes and dtypes that the reference gives."""
    reference, boundary = (
        getattr(importlib.import_module(module), name),
        boundaries._FUNCTIONS[name],
    )
    for args, kwargs in CALLS[name]():
        meta_args = [on_meta(a) for a in args]
        meta_kwargs = {key: on_meta(v) for key, v in kwargs.items()}
        with torch.no_grad():
            expected, found = reference(*args, **kwargs), boundary(*meta_args, **meta_kwargs)
        assert form(found) == form(expected), {k: form(v) for k, v in kwargs.items()}
        assert form(meta_args) == form(args)  # a state that is written in place keeps its form


def test_attention_returns_the_form_of_its_reference() -> None:
    """(B,S,H,V), with fewer key heads than query heads and values narrower than keys."""
    query, key, value = tensor(B, 4, S, 8), tensor(B, 2, S + 3, 8), tensor(B, 2, S + 3, 6)
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 2, True
    expected, _ = sdpa_attention_forward(module, query, key, value, None)
    found, _ = attention(module, *(x.to("meta") for x in (query, key, value)), None)
    assert form(found) == form(expected)
    assert found.is_contiguous()


def test_kernel_functions_without_a_boundary_are_known() -> None:
    """A new kernel function is looked at by a person: it gets a boundary, or a reason here."""
    names = {node.name for _, node in kernel_functions()}
    assert names - set(boundaries._FUNCTIONS) <= set(TRAINING_ONLY)


@pytest.mark.parametrize("module", list(modeling_files()))
def test_training_only_functions_run_in_training_alone(module: str) -> None:
    """The reason that they need no boundary: every call stands under `if self.training ...`."""
    tree = modeling_files()[module]
    training = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.If) and "self.training" in ast.unparse(n.test)
    ]
    guarded = {id(call) for branch in training for part in branch.body for call in ast.walk(part)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in TRAINING_ONLY:
            assert id(node) in guarded, f"{module}:{node.lineno}"
