"""Convolution, delta rule and scan of a slot in place of the functions of transformers' modeling files.

Each function has the names and arguments that those files call with; what a slot has no input for is refused.
Shapes: B batch, S tokens, C channels, K taps or size of a key, H heads, G groups, V or P size of a head, N of a state.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from oplib.kernels import registry
from oplib.kernels.binding import Binding, ready, refuse
from oplib.kernels.variant import DTYPES, Inputs, Outputs, Sizes, Variant
from oplib.params import Params
from oplib.registry import kind

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
Pair = tuple[torch.Tensor, torch.Tensor]


def convolution(variant: Variant) -> Binding:
    """The slot causal_conv1d."""
    name = variant.name

    def causal_conv1d_fn(
        hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None,
        activation: str | None = None, **_more: Any,
    ) -> torch.Tensor:  # fmt: skip
        """(B,C,S), (C,K) -> (B,C,S)."""
        b, channels, _ = hidden_states.shape
        state = hidden_states.new_zeros(b, channels, weight.shape[1] - 1)
        return _CONVOLUTION(hidden_states, weight, bias, state, name, activation or "")

    def causal_conv1d_update(
        hidden_states: torch.Tensor, conv_state: torch.Tensor, weight: torch.Tensor,
        bias: torch.Tensor | None = None, activation: str | None = None, **_more: Any,
    ) -> torch.Tensor:  # fmt: skip
        """(B,C,S), the last K inputs (B,C,K), which are moved on in place, (C,K) -> (B,C,S)."""
        state = conv_state[..., 1:]
        out = _CONVOLUTION(hidden_states, weight, bias, state, name, activation or "")
        whole = torch.cat([conv_state, hidden_states], -1)
        conv_state.copy_(whole[..., hidden_states.shape[-1] :])
        return out

    return Binding(
        functions={
            "causal_conv1d_fn": causal_conv1d_fn,
            "causal_conv1d_update": causal_conv1d_update,
        }
    )


def delta_rule(variant: Variant) -> Binding:
    """The slot gated_delta_rule, of one phase."""
    name = variant.name

    def chunked(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, g: torch.Tensor, beta: torch.Tensor,
        chunk_size: int = 64, initial_state: torch.Tensor | None = None, output_final_state: bool = False,
        use_qk_l2norm_in_kernel: bool = False, **_more: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
        """(B,S,H,K) twice, (B,S,H,V), decay (B,S,H) or (B,S,H,K), (B,S,H) -> (B,S,H,V) and the state (B,H,K,V)."""
        if initial_state is not None or not use_qk_l2norm_in_kernel:
            refuse("a state that a prompt goes on from, or keys that are of unit length already")
        out, state = _DELTA_RULE(query, key, value, g.float(), beta, name, chunk_size)
        return out, state if output_final_state else None

    def recurrent(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, g: torch.Tensor, beta: torch.Tensor,
        initial_state: torch.Tensor | None = None, output_final_state: bool = False,
        use_qk_l2norm_in_kernel: bool = False, **_more: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
        """The same, token by token over a state, which is moved on in place."""
        if initial_state is None or not use_qk_l2norm_in_kernel:
            refuse("no state, or keys that are of unit length already")
        out = _DELTA_STEP(query, key, value, g.float(), beta, initial_state, name)
        return out, initial_state if output_final_state else None

    names: dict[str, Any] = {"torch_chunk_gated_delta_rule": chunked, "chunk_kimi_delta_attention": chunked,
             "torch_recurrent_gated_delta_rule": recurrent, "recurrent_kimi_delta_attention": recurrent}  # fmt: skip
    return Binding(functions=names)


def scan(variant: Variant) -> Binding:
    """The slot mamba2, of one phase."""
    name = variant.name

    def mamba2_chunk_scan(
        hidden_states: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor,
        chunk_size: int, D: torch.Tensor | None = None, dt_bias: torch.Tensor | None = None,
        initial_states: torch.Tensor | None = None, dt_softplus: bool = False,
        dt_limit: tuple[float, float] = (0.0, float("inf")), return_final_states: bool = False,
        z: torch.Tensor | None = None, **_more: Any,
    ) -> Any:  # fmt: skip
        """(B,S,H,P), (B,S,H), (H), (B,S,G,N) twice -> (B,S,H,P), and the state (B,H,P,N) where it is asked for."""
        if initial_states is not None or not dt_softplus or dt_bias is None or D is None:
            refuse("a state that a prompt goes on from, a step as it is, or no D")
            raise AssertionError
        dt = _limited(dt, dt_bias, *dt_limit)
        out, state = _SCAN(hidden_states, dt, A, B, C, D, dt_bias, name, chunk_size)
        out = _gated(out, z)
        return (out, state) if return_final_states else out

    def mamba2_selective_state_update(
        state: torch.Tensor, hidden_states: torch.Tensor, dt: torch.Tensor, A: torch.Tensor,
        B: torch.Tensor, C: torch.Tensor, D: torch.Tensor | None = None,
        dt_bias: torch.Tensor | None = None, dt_softplus: bool = False, z: torch.Tensor | None = None, **_more: Any,
    ) -> torch.Tensor:  # fmt: skip
        """(B,H,P,N), which is moved on in place, (B,H,P), and per head what the file has widened -> (B,H,P)."""
        if not dt_softplus or D is None or dt_bias is None:
            refuse("a step as it is, or no D")
            raise AssertionError
        out = _SCAN_STEP(
            hidden_states[:, None], dt[:, None, :, 0], A[:, 0, 0], B[:, None], C[:, None], D[:, 0], dt_bias[:, 0],
            state, name,
        )  # fmt: skip
        return _gated(out[:, 0], z)

    return Binding(
        functions={
            "mamba2_chunk_scan": mamba2_chunk_scan,
            "mamba2_selective_state_update": mamba2_selective_state_update,
        }
    )


def _gated(out: torch.Tensor, z: torch.Tensor | None) -> torch.Tensor:
    return out if z is None else out * torch.nn.functional.silu(z.view(out.shape))


def _limited(dt: torch.Tensor, bias: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """`dt` such that softplus(dt + bias) lies between two limits: the slot knows none, softplus only grows."""
    if low > 0:
        dt = torch.maximum(dt, (math.log(math.expm1(low)) - bias).to(dt.dtype))
    if high < float("inf"):
        dt = torch.minimum(dt, (math.log(math.expm1(high)) - bias).to(dt.dtype))
    return dt


def _convolution(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, state: torch.Tensor, variant: str, activation: str
) -> torch.Tensor:  # fmt: skip
    params = {"channels": w.shape[0], "kernel_size": w.shape[1], "bias": bias is not None, "activation": activation,
              "dtype": _NAMES[x.dtype]}  # fmt: skip
    inputs = {"x": x, "w": w, "bias": bias, "state": state}
    dims = {"b": x.shape[0], "s": x.shape[2]}
    return _run("causal_conv1d", variant, inputs, params, dims)[0].contiguous()


def _convolution_sizes(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, state: torch.Tensor, variant: str, activation: str  # noqa: ARG001
) -> torch.Tensor:  # fmt: skip
    return x.new_empty(x.shape)


def _delta_rule(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, gate: torch.Tensor, beta: torch.Tensor, variant: str,
    chunk_size: int,
) -> Pair:  # fmt: skip
    inputs = {"q": query, "k": key, "v": value, "beta": beta, "gate": gate, "state": None}
    out = _run("gated_delta_rule", variant, inputs, *_delta_case(inputs, chunk_size))
    return out[0].contiguous(), out[1].contiguous()


def _delta_rule_sizes(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, gate: torch.Tensor, beta: torch.Tensor, variant: str,  # noqa: ARG001
    chunk_size: int,  # noqa: ARG001
) -> Pair:  # fmt: skip
    sizes = (value.shape[0], value.shape[2], key.shape[3], value.shape[3])
    return value.new_empty(value.shape), value.new_empty(sizes, dtype=torch.float32)


def _delta_step(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, gate: torch.Tensor, beta: torch.Tensor,
    state: torch.Tensor, variant: str,
) -> torch.Tensor:  # fmt: skip
    inputs = {"q": query, "k": key, "v": value, "beta": beta, "gate": gate, "state": state}
    out = _run("gated_delta_rule", variant, inputs, *_delta_case(inputs, 1))
    _kept(state, out[1])
    return out[0].contiguous()


def _delta_step_sizes(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, gate: torch.Tensor, beta: torch.Tensor,  # noqa: ARG001
    state: torch.Tensor, variant: str,  # noqa: ARG001
) -> torch.Tensor:  # fmt: skip
    return value.new_empty(value.shape)


def _delta_case(inputs: Inputs, chunk_size: int) -> tuple[Params, Sizes]:
    key, value, state = inputs["k"], inputs["v"], inputs["state"]
    (b, s, k_heads, k), (heads, v) = key.shape, value.shape[2:]
    params = {
        "num_k_heads": k_heads, "num_v_heads": heads, "head_k_dim": k, "head_v_dim": v, "chunk_size": chunk_size,
        "gate": "channel" if inputs["gate"].dim() == 4 else "scalar", "dtype": _NAMES[value.dtype],
        "state_dtype": _NAMES[torch.float32 if state is None else state.dtype],
        "phase": "context" if state is None else "generation",
    }  # fmt: skip
    return params, {"b": b, "s": s}


def _scan(
    x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor,
    dt_bias: torch.Tensor, variant: str, chunk_size: int,
) -> Pair:  # fmt: skip
    inputs = {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "dt_bias": dt_bias, "state": None}
    out = _run("mamba2", variant, inputs, *_scan_case(inputs, chunk_size))
    return out[0].contiguous(), out[1].contiguous()


def _scan_sizes(
    x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor,  # noqa: ARG001
    dt_bias: torch.Tensor, variant: str, chunk_size: int,  # noqa: ARG001
) -> Pair:  # fmt: skip
    sizes = (x.shape[0], x.shape[2], x.shape[3], B.shape[3])
    return x.new_empty(x.shape), x.new_empty(sizes, dtype=torch.float32)


def _scan_step(
    x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor,
    dt_bias: torch.Tensor, state: torch.Tensor, variant: str,
) -> torch.Tensor:  # fmt: skip
    inputs = {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "dt_bias": dt_bias, "state": state}
    out = _run("mamba2", variant, inputs, *_scan_case(inputs, 1))
    _kept(state, out[1])
    return out[0].contiguous()


def _scan_step_sizes(
    x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor,  # noqa: ARG001
    dt_bias: torch.Tensor, state: torch.Tensor, variant: str,  # noqa: ARG001
) -> torch.Tensor:  # fmt: skip
    return x.new_empty(x.shape)


def _scan_case(inputs: Inputs, chunk_size: int) -> tuple[Params, Sizes]:
    x, state = inputs["x"], inputs["state"]
    (b, s, heads, size), (groups, n) = x.shape, inputs["B"].shape[2:]
    params = {
        "d_inner": heads * size, "d_state": n, "num_heads": heads, "head_dim": size, "n_groups": groups,
        "chunk_size": chunk_size, "dtype": _NAMES[x.dtype],
        "state_dtype": _NAMES[torch.float32 if state is None else state.dtype],
        "phase": "context" if state is None else "generation",
    }  # fmt: skip
    return params, {"b": b, "s": s}


def _kept(state: torch.Tensor, new: torch.Tensor) -> None:
    """The new state in the place of the old one, where the variant has not written it there itself."""
    if new.data_ptr() != state.data_ptr():
        state.copy_(new)


def _run(slot: str, variant: str, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
    found, complete = registry.slot(slot).variants[variant], kind(slot).complete(params)
    with torch.no_grad():
        return found.run(ready(found, inputs, complete, dims), complete, dims)


_CONVOLUTION: Any = torch.library.custom_op(
    "kernel_slots::causal_conv1d", _convolution, mutates_args=()
)
_CONVOLUTION.register_fake(_convolution_sizes)
_DELTA_RULE: Any = torch.library.custom_op(
    "kernel_slots::gated_delta_rule", _delta_rule, mutates_args=()
)
_DELTA_RULE.register_fake(_delta_rule_sizes)
_DELTA_STEP: Any = torch.library.custom_op(
    "kernel_slots::gated_delta_step", _delta_step, mutates_args=("state",)
)
_DELTA_STEP.register_fake(_delta_step_sizes)
_SCAN: Any = torch.library.custom_op("kernel_slots::mamba2", _scan, mutates_args=())
_SCAN.register_fake(_scan_sizes)
_SCAN_STEP: Any = torch.library.custom_op(
    "kernel_slots::mamba2_step", _scan_step, mutates_args=("state",)
)
_SCAN_STEP.register_fake(_scan_step_sizes)
