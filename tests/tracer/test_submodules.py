"""A sub-module on its own does what it does inside the full model, at workloads that were never traced."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from oplib.errors import InvalidInputError
from tests.tracer import small_models
from tests.tracer.older import angles_by_product
from tests.tracer.small_models import _PLAIN, FAST, SMALL, Config
from tracer.build import quiet_transformers
from tracer.cache import at, is_cache_part, leaves, rebuild
from tracer.submodules import Call, SubModule, submodules, submodules_of
from tracer.tensors import tensors

_NO_HEAD_DIM = {k: v for k, v in _PLAIN.items() if k != "head_dim"}
#: Families beside those of small_models: parallel blocks, other positions, other caches.
MORE: dict[str, Config] = {
    "gpt2": {"model_type": "gpt2", "n_embd": 48, "n_layer": 3, "n_head": 6, "vocab_size": 173, "n_positions": 512},
    "gpt_neox": {"model_type": "gpt_neox", **_NO_HEAD_DIM, "rotary_pct": 0.5},
    "falcon": {"model_type": "falcon", **_NO_HEAD_DIM, "new_decoder_architecture": True, "num_kv_heads": 2},
    "phi": {"model_type": "phi", **_NO_HEAD_DIM},
    "falcon_h1": {
        "model_type": "falcon_h1", **_PLAIN, "num_hidden_layers": 4, "mamba_d_ssm": 96, "mamba_n_heads": 8,
        "mamba_d_head": 12, "mamba_d_state": 10, "mamba_n_groups": 2, "mamba_d_conv": 3, "mamba_chunk_size": 16,
    },
    "lfm2": {
        "model_type": "lfm2", **_NO_HEAD_DIM, "conv_L_cache": 3,
        "layer_types": ["conv", "full_attention", "conv", "conv", "full_attention"],
    },
    "olmo2": {"model_type": "olmo2", **_NO_HEAD_DIM},
    "glm4_moe": {
        "model_type": "glm4_moe", **_PLAIN, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 1,
        "moe_intermediate_size": 24, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    },
}  # fmt: skip
CONFIGS = {**{n: c for n, c in SMALL.items() if n not in ("llama_tied", "mixtral_fp8")}, **MORE}
WORKLOADS = (
    ("context", 2, 7, 31),
    ("context", 3, 9, 0),
    ("context", 1, 1, 5),
    ("generation", 2, 1, 40),
)
HOW = {"attn_implementation": "eager", "experts_implementation": "batched_mm"}
_aten = torch.ops.aten
_WAITING = {
    _aten._local_scalar_dense.default, _aten.nonzero.default, _aten.is_nonzero.default, _aten.equal.default,
    _aten.masked_select.default, _aten._unique2.default, _aten.unique_consecutive.default,
    _aten.repeat_interleave.Tensor, _aten.bincount.default,
}  # fmt: skip
NO_SDPA = ("gpt_oss", "gemma2", "mamba2", "deepseek_v4")  # transformers refuses it for these
ALIGNED = (
    "glm4_moe",
    "gpt_oss",
)  # rows of experts are whole 16 bytes, as grouped products need them
KEPT_FAST = ("llama", "deepseek_v3", "gpt_oss", "nemotron_h")


def each(names: Any = CONFIGS) -> list[Any]:
    """These configs as test parameters, most of them slow."""
    return [n if n in KEPT_FAST else pytest.param(n, marks=pytest.mark.slow) for n in sorted(names)]


@functools.cache
def parts(name: str) -> tuple[SubModule, ...]:
    """The sub-modules of a config."""
    if name in SMALL:
        return tuple(submodules_of(small_models.traced(name)))
    return tuple(submodules(small_models.write(CONFIGS[name], name)))


@functools.cache
def full(name: str) -> nn.Module:
    """The model with real weights, made by transformers alone, at full depth."""
    config = AutoConfig.for_model(**CONFIGS[name])
    with quiet_transformers(), torch.random.fork_rng([]):
        torch.manual_seed(3)
        experts = {"experts_implementation": "batched_mm"} if "xperts" in str(CONFIGS[name]) else {}
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="eager", **experts
        )
        for parameter in model.parameters():  # norms and biases start alike: tell them apart
            parameter.data += 0.02 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def seen(name: str, phase: str, b: int, s: int, p: int) -> dict[str, tuple[Any, Any]]:
    """Arguments and outputs of each sub-module in a run of the full model, the first time that it is called."""
    model, found, handles = full(name), {}, []

    def before(path: str) -> Any:
        def note(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            found.setdefault(path, [copy.deepcopy((args, kwargs)), None])

        return note

    def after(path: str) -> Any:
        def note(_module: nn.Module, _args: tuple, out: Any) -> None:
            if found[path][1] is None:
                found[path][1] = [t.clone() for t in tensors(out)]

        return note

    cache = small_models.step(model, torch.zeros(b, p, dtype=torch.long)) if p else None
    for part in parts(name):
        module = model.get_submodule(part.name)
        handles.append(module.register_forward_pre_hook(before(part.name), with_kwargs=True))
        handles.append(module.register_forward_hook(after(part.name)))
    small_models.step(
        model, torch.zeros(b, 1 if phase == "generation" else s, dtype=torch.long), cache
    )
    for handle in handles:
        handle.remove()
    return {path: (inputs, out) for path, (inputs, out) in found.items()}


def given(real: Any, ours: Any, other: Any, where: str = "") -> Any:
    """`ours` with its random tensors taken from the real run; `other` is `ours` from another seed, which tells them.

    Everything else is asserted to be what the real run has.
    """
    if isinstance(real, torch.Tensor):
        assert isinstance(ours, torch.Tensor), where
        assert (real.shape, real.dtype) == (ours.shape, ours.dtype), where
        if not torch.equal(ours, other):
            assert ours.is_floating_point() or "top" in where, where
            return real
        assert torch.equal(ours, real), where
        return ours
    assert type(ours) is type(real), where
    if isinstance(real, Mapping):
        assert list(real) == list(ours), where
        made = copy.copy(ours)
        for key in real:
            made[key] = given(real[key], ours[key], other[key], f"{where}.{key}")
        return made
    if isinstance(real, list | tuple):
        assert len(real) == len(ours), where
        return type(real)(
            given(a, b, c, f"{where}.{i}") for i, (a, b, c) in enumerate(zip(real, ours, other, strict=True))
        )  # fmt: skip
    if is_cache_part(real):
        return given_cache(real, ours)
    assert real == ours or not isinstance(real, str | int | float | bool | None), where
    return ours


def given_cache(real: Any, ours: Any) -> Any:
    """Our cache with the real values: the same leaves, of the same sizes, and the same counts."""
    expected = dict(leaves(real))
    found = {path: at(ours, path) for path in expected}
    assert all(at(real, path) is not None for path, _ in leaves(ours))
    for path, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert (found[path].shape, found[path].dtype) == (value.shape, value.dtype), path
            assert value.is_floating_point() or torch.equal(found[path], value), path
        else:
            assert found[path] == value, path
    return rebuild(ours, {path: v for path, v in expected.items() if isinstance(v, torch.Tensor)})


def check(
    part: SubModule, workload: tuple, real: Any, out: list[torch.Tensor], module: nn.Module
) -> None:
    """The module on its own gives what it gave in the full model, and what its own inputs give is finite."""
    call, other = (part.inputs(*workload, seed=seed, **HOW) for seed in (0, 1))
    assert all(t.isfinite().all() for t in tensors(call.run(module)))
    call.reset()
    args, kwargs = given(real, (call.args, call.kwargs), (other.args, other.kwargs), part.name)
    ours = list(tensors(Call(args=args, kwargs=kwargs, cache=None).run(module)))
    assert len(ours) == len(out) > 0
    for a, b in zip(ours, out, strict=True):
        assert torch.equal(a, b), part.name


@pytest.mark.parametrize("name", each())
def test_outputs_are_those_inside_the_full_model(name):
    """Every sub-module, both phases, with and without cached tokens: exactly equal, and masks, positions and the state
    of the cache are the real ones. Only activations and cached values are random.
    """
    built = {}
    for part in parts(name):
        built[part.name] = part.build(**HOW)
        built[part.name].load_state_dict(full(name).get_submodule(part.name).state_dict())
    for workload in WORKLOADS:
        for path, (real, out) in seen(name, *workload).items():
            part = next(p for p in parts(name) if p.name == path)
            check(part, workload, real, out, built[path])


COUNTED = [n for n in CONFIGS if n not in ("jamba", "mamba2", "deepseek_v4")]


@pytest.mark.parametrize(
    "name",
    [*each(COUNTED), pytest.param("deepseek_v4", marks=[pytest.mark.slow, angles_by_product])],
)
def test_ops_are_the_work_of_the_module(name):
    """The FLOPs that torch counts in one call of each sub-module are those of its ops as written."""
    for part in parts(name):
        module = part.build(**HOW)
        for phase, b, s, p in (("context", 2, 7, 0), ("generation", 2, 1, 40)):
            ops = part.ops(phase)
            assert part.role == "norm" or ops
            if any(not op.kind.counted for op in ops):
                continue
            call = part.inputs(phase, b, s, p, **HOW)
            with FlopCounterMode(display=False) as counter:
                call.run(module)
            listed = sum(op.count * op.flops_at(b=b, s=s, p=p) for op in ops)
            assert counter.get_total_flops() == listed, (part.name, phase)


ROLES = {
    "llama": {"layer", "attention", "mlp", "norm"},
    "deepseek_v3": {"layer", "attention", "mlp", "moe", "norm"},
    "nemotron_h": {"layer", "attention", "mixer", "moe", "norm"},
    "qwen3_next": {"layer", "attention", "mixer", "moe", "norm"},
    "lfm2": {"layer", "attention", "mixer", "mlp", "norm"},
    "falcon_h1": {"layer", "attention", "mixer", "mlp", "norm"},
    "gpt2": {"layer", "attention", "mlp", "norm"},
}


@pytest.mark.parametrize("name", each(ROLES))
def test_roles(name):
    """Each representative layer gives itself and its parts, each once."""
    found = parts(name)
    assert {part.role for part in found} == ROLES[name]
    assert len({part.name for part in found}) == len(found)
    layers = [part for part in found if part.role == "layer"]
    assert [part.layer for part in layers] == [part.name for part in layers]
    for part in found:
        assert part.name.startswith(part.layer)
        assert part.weight_bytes == sum(
            q.numel() * q.dtype.itemsize for q in part.build().parameters()
        )


def test_calls_repeat():
    """After a reset a call gives what it gave before: the cache holds p tokens again."""
    for name in ("llama", "nemotron_h"):
        for part in parts(name):
            module, call = part.build(**HOW), part.inputs("generation", 2, 1, 12, **HOW)
            first = [t.clone() for t in tensors(call.run(module))]
            call.reset()
            again = list(tensors(call.run(module)))
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), part.name


class NoValues(TorchDispatchMode):
    """Raises where Python waits for the values of a tensor, or a size depends on them: no such call can be captured."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = args[1] if func in (_aten.index.Tensor, _aten.index_put_.default) else ()
        if func in _WAITING or any(m is not None and m.dtype == torch.bool for m in masks):
            raise RuntimeError(f"waits for the device: {func}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", each())
def test_calls_wait_for_no_value(name):
    """A call of any sub-module, and a reset, asks the device for no value; and repeats."""
    attention = "eager" if name in NO_SDPA else "sdpa"
    experts = "grouped_mm" if name in ALIGNED else "batched_mm"
    how = {"attn_implementation": attention, "experts_implementation": experts}
    for part in parts(name):
        module = part.build(**how)
        for phase, p in (("context", 5), ("generation", 12)):
            call = part.inputs(phase, 2, 3, p, **how)
            first = [t.clone() for t in tensors(call.run(module))]
            with NoValues():
                call.reset()
                again = list(tensors(call.run(module)))
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), part.name


def test_a_call_that_asks_for_values_is_told():
    """Experts as written loop over those that any token chose."""
    part = next(p for p in parts("deepseek_v3") if p.role == "moe")
    call = part.inputs("context", 2, 3, 5, experts_implementation="eager")
    with pytest.raises(RuntimeError, match="waits for the device"), NoValues():
        call.run(part.build(experts_implementation="eager"))


def test_seeds_decide():
    """The same seed gives the same weights and inputs, another seed others; the global generator is left alone."""
    part = parts("llama")[1]
    state = torch.get_rng_state()
    first, again, other = (part.build(seed=seed) for seed in (4, 4, 5))
    assert torch.equal(first.q_proj.weight, again.q_proj.weight)
    assert not torch.equal(first.q_proj.weight, other.q_proj.weight)
    inputs = [part.inputs("context", 1, 3, 2, seed=seed) for seed in (4, 4, 5)]
    values = [next(tensors([c.args, c.kwargs])) for c in inputs]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    assert torch.equal(state, torch.get_rng_state())


def test_other_widths():
    """`configure` changes what is built: half of the heads, as one of two GPUs holds them."""

    def halve(config: Any) -> None:
        config.num_attention_heads //= 2
        config.num_key_value_heads //= 2

    part = submodules(small_models.folder("llama"), configure=halve)[1]
    module = part.build()
    assert module.q_proj.weight.shape == (30, 48)
    out = next(tensors(part.inputs("context", 2, 5, 3).run(module)))
    assert out.shape == (2, 5, 48)


@pytest.mark.slow
def test_a_layer_of_a_large_model_needs_only_its_own_memory():
    """Sizes of a 405B model: the norm of a layer is made in no time, because nothing else is.

    A layer: q and o 16384x16384, k and v 1024x16384, three of 53248x16384, two norms; two bytes each.
    """
    config = {**SMALL["llama"], "hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126,
              "num_attention_heads": 128, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256}  # fmt: skip
    found = submodules(small_models.write(config))
    assert [part.weight_bytes for part in found if part.role == "layer"] == [
        2 * 16384 * (2 * 16384 + 2 * 1024 + 3 * 53248 + 2)
    ]
    norm = next(part for part in found if part.role == "norm")
    assert norm.inputs("context", 1, 2, 4096).run(norm.build()).shape == (1, 2, 16384)


def test_bad_workloads_are_refused():
    """A phase that is none, and sizes that no model runs."""
    part = parts("llama")[0]
    for phase, b, s, p in (
        ("prefill", 1, 1, 0),
        ("context", 0, 1, 0),
        ("context", 1, 0, 0),
        ("context", 1, 1, -1),
    ):
        with pytest.raises(InvalidInputError):
            part.inputs(phase, b, s, p)


def test_at_least_twenty_families():
    """What the equality test covers."""
    assert len(CONFIGS) >= 20
    assert set(KEPT_FAST) <= set(FAST)
