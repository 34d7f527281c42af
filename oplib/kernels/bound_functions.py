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
    body, name = variant.written_out, variant.name

    def call(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, state: torch.Tensor | None,
             activation: str | None) -> torch.Tensor:  # fmt: skip
        if state is None:
            state = x.new_zeros(x.shape[0], x.shape[1], w.shape[1] - 1)
        if body is None:
            return _CONVOLUTION(x, w, bias, state, name, activation or "")[0]
        given = {"activation": activation or ""}
        return body.run({"x": x, "w": w, "bias": bias, "state": state}, given, {})[0]

    def causal_conv1d_fn(
        hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None,
        activation: str | None = None, **_more: Any,
    ) -> torch.Tensor:  # fmt: skip
        """(B,C,S), (C,K) -> (B,C,S)."""
        return call(hidden_states, weight, bias, None, activation)

    def causal_conv1d_update(
        hidden_states: torch.Tensor, conv_state: torch.Tensor, weight: torch.Tensor,
        bias: torch.Tensor | None = None, activation: str | None = None, **_more: Any,
    ) -> torch.Tensor:  # fmt: skip
        """(B,C,S), the last K inputs (B,C,K), which are moved on in place, (C,K) -> (B,C,S)."""
        out = call(hidden_states, weight, bias, conv_state[..., 1:], activation)
        whole = torch.cat([conv_state, hidden_states], -1)
        conv_state.copy_(whole[..., hidden_states.shape[-1] :])
        return out

    return Binding(functions={f.__name__: f for f in (causal_conv1d_fn, causal_conv1d_update)})


def delta_rule(variant: Variant) -> Binding:
    """The slot gated_delta_rule, of one phase."""
    body, name = variant.written_out, variant.name

    def call(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, g: torch.Tensor, beta: torch.Tensor,
             chunk_size: int, initial_state: torch.Tensor | None) -> Pair:  # fmt: skip
        gate = g.float()
        if body is None:
            return _DELTA_RULE(query, key, value, gate, beta, initial_state, name, chunk_size)
        inputs = {
            "q": query,
            "k": key,
            "v": value,
            "beta": beta,
            "gate": gate,
            "state": initial_state,
        }
        out = body.run(inputs, {"chunk_size": chunk_size}, {})
        return out[0], out[1]

    def chunked(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, g: torch.Tensor, beta: torch.Tensor,
        chunk_size: int = 64, initial_state: torch.Tensor | None = None, output_final_state: bool = False,
        use_qk_l2norm_in_kernel: bool = False, **_more: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
        """(B,S,H,K) twice, (B,S,H,V), decay (B,S,H) or (B,S,H,K), (B,S,H) -> (B,S,H,V) and the state (B,H,K,V)."""
        if initial_state is not None or not use_qk_l2norm_in_kernel:
            refuse("a state that a prompt goes on from, or keys that are of unit length already")
        out, state = call(query, key, value, g, beta, chunk_size, None)
        return out, state if output_final_state else None

    def recurrent(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, g: torch.Tensor, beta: torch.Tensor,
        initial_state: torch.Tensor | None = None, output_final_state: bool = False,
        use_qk_l2norm_in_kernel: bool = False, **_more: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
        """The same, token by token over a state."""
        if initial_state is None or not use_qk_l2norm_in_kernel:
            refuse("no state, or keys that are of unit length already")
        out, state = call(query, key, value, g, beta, 1, initial_state)
        return out, state if output_final_state else None

    names = {"torch_chunk_gated_delta_rule": chunked, "chunk_kimi_delta_attention": chunked,
             "torch_recurrent_gated_delta_rule": recurrent, "recurrent_kimi_delta_attention": recurrent}  # fmt: skip
    return Binding(functions=names)


def scan(variant: Variant) -> Binding:
    """The slot mamba2, of one phase."""
    body, name = variant.written_out, variant.name

    def call(inputs: Inputs, chunk_size: int) -> Pair:
        if inputs["D"] is None or inputs["dt_bias"] is None:
            refuse("no D or no bias of the step")
        if body is None:
            x, dt, a, b, c = (inputs["x"], inputs["dt"], inputs["A"], inputs["B"], inputs["C"])
            return _SCAN(
                x, dt, a, b, c, inputs["D"], inputs["dt_bias"], inputs["state"], name, chunk_size
            )
        out = body.run(inputs, {"chunk_size": chunk_size}, {})
        return out[0], out[1]

    def mamba2_chunk_scan(
        hidden_states: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor,  # noqa: N803
        chunk_size: int, D: torch.Tensor | None = None, dt_bias: torch.Tensor | None = None,  # noqa: N803
        initial_states: torch.Tensor | None = None, dt_softplus: bool = False,
        dt_limit: tuple[float, float] = (0.0, float("inf")), return_final_states: bool = False,
        z: torch.Tensor | None = None, **_more: Any,
    ) -> Any:  # fmt: skip
        """(B,S,H,P), (B,S,H), (H), (B,S,G,N) twice -> (B,S,H,P), and the state (B,H,P,N) where it is asked for."""
        if initial_states is not None or not dt_softplus or dt_bias is None:
            refuse("a state that a prompt goes on from, or a step as it is")
            raise AssertionError
        dt = _limited(dt, dt_bias, *dt_limit)
        given = {
            "x": hidden_states,
            "dt": dt,
            "A": A,
            "B": B,
            "C": C,
            "D": D,
            "dt_bias": dt_bias,
            "state": None,
        }
        out, state = call(given, chunk_size)
        out = _gated(out, z)
        return (out, state) if return_final_states else out

    def mamba2_selective_state_update(
        state: torch.Tensor, hidden_states: torch.Tensor, dt: torch.Tensor, A: torch.Tensor,  # noqa: N803
        B: torch.Tensor, C: torch.Tensor, D: torch.Tensor | None = None,  # noqa: N803
        dt_bias: torch.Tensor | None = None, dt_softplus: bool = False, z: torch.Tensor | None = None, **_more: Any,
    ) -> torch.Tensor:  # fmt: skip
        """(B,H,P,N), which is moved on in place, (B,H,P), and per head what the file has widened -> (B,H,P)."""
        if not dt_softplus or D is None or dt_bias is None:
            refuse("a step as it is")
            raise AssertionError
        given = {
            "x": hidden_states[:, None], "dt": dt[:, None, :, 0], "A": A[:, 0, 0], "B": B[:, None], "C": C[:, None],
            "D": D[:, 0], "dt_bias": dt_bias[:, 0], "state": state,
        }  # fmt: skip
        out, new = call(given, 1)
        if new is not state:
            state.copy_(new)
        return _gated(out[:, 0], z)

    both = (mamba2_chunk_scan, mamba2_selective_state_update)
    return Binding(functions={f.__name__: f for f in both})


def _gated(out: torch.Tensor, z: torch.Tensor | None) -> torch.Tensor:
    return out if z is None else out * torch.nn.functional.silu(z.view(out.shape))


def _limited(dt: torch.Tensor, bias: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """`dt` such that softplus(dt + bias) lies between two limits: the slot knows none, softplus only grows."""
    if low > 0:
        dt = torch.maximum(dt, (math.log(math.expm1(low)) - bias).to(dt.dtype))
    if high < float("inf"):
        dt = torch.minimum(dt, (math.log(math.expm1(high)) - bias).to(dt.dtype))
    return dt


@torch.library.custom_op("kernel_slots::causal_conv1d", mutates_args=())
def _CONVOLUTION(  # noqa: N802 - an operator that functions close over
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor | None,
    state: torch.Tensor,
    variant: str,
    activation: str,
) -> Pair:
    params = {"channels": w.shape[0], "kernel_size": w.shape[1], "bias": bias is not None, "activation": activation,
              "dtype": _NAMES[x.dtype]}  # fmt: skip
    inputs = {"x": x, "w": w, "bias": bias, "state": state}
    return _run("causal_conv1d", variant, inputs, params, {"b": x.shape[0], "s": x.shape[2]})


@_CONVOLUTION.register_fake
def _(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, state: torch.Tensor, variant: str, activation: str  # noqa: ARG001
) -> Pair:  # fmt: skip
    return x.new_empty(x.shape), state.new_empty(state.shape)


@torch.library.custom_op("kernel_slots::gated_delta_rule", mutates_args=())
def _DELTA_RULE(  # noqa: N802
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, gate: torch.Tensor, beta: torch.Tensor,
    state: torch.Tensor | None, variant: str, chunk_size: int,
) -> Pair:  # fmt: skip
    (b, s, k_heads, k), (heads, v) = key.shape, value.shape[2:]
    params = {
        "num_k_heads": k_heads, "num_v_heads": heads, "head_k_dim": k, "head_v_dim": v, "chunk_size": chunk_size,
        "gate": "channel" if gate.dim() == 4 else "scalar", "dtype": _NAMES[value.dtype],
        "state_dtype": _NAMES[torch.float32 if state is None else state.dtype],
        "phase": "context" if state is None else "generation",
    }  # fmt: skip
    inputs = {"q": query, "k": key, "v": value, "beta": beta, "gate": gate, "state": state}
    return _run("gated_delta_rule", variant, inputs, params, {"b": b, "s": s})


@_DELTA_RULE.register_fake
def _(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, gate: torch.Tensor, beta: torch.Tensor,  # noqa: ARG001
    state: torch.Tensor | None, variant: str, chunk_size: int,  # noqa: ARG001
) -> Pair:  # fmt: skip
    sizes = (value.shape[0], value.shape[2], key.shape[3], value.shape[3])
    kept = torch.float32 if state is None else state.dtype
    return value.new_empty(value.shape), value.new_empty(sizes, dtype=kept)


_SCANNED = ("x", "dt", "A", "B", "C", "D", "dt_bias", "state")


@torch.library.custom_op("kernel_slots::mamba2", mutates_args=())
def _SCAN(  # noqa: N802
    x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor,  # noqa: N803
    dt_bias: torch.Tensor, state: torch.Tensor | None, variant: str, chunk_size: int,
) -> Pair:  # fmt: skip
    (b, s, heads, size), (groups, n) = x.shape, B.shape[2:]
    params = {
        "d_inner": heads * size, "d_state": n, "num_heads": heads, "head_dim": size, "n_groups": groups,
        "chunk_size": chunk_size, "dtype": _NAMES[x.dtype],
        "state_dtype": _NAMES[torch.float32 if state is None else state.dtype],
        "phase": "context" if state is None else "generation",
    }  # fmt: skip
    inputs = dict(zip(_SCANNED, (x, dt, A, B, C, D, dt_bias, state), strict=True))
    return _run("mamba2", variant, inputs, params, {"b": b, "s": s})


@_SCAN.register_fake
def _(
    x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor,  # noqa: N803, ARG001
    dt_bias: torch.Tensor, state: torch.Tensor | None, variant: str, chunk_size: int,  # noqa: ARG001
) -> Pair:  # fmt: skip
    sizes = (x.shape[0], x.shape[2], x.shape[3], B.shape[3])
    kept = torch.float32 if state is None else state.dtype
    return x.new_empty(x.shape), x.new_empty(sizes, dtype=kept)


def _run(slot: str, variant: str, inputs: Inputs, params: Params, dims: Sizes) -> Pair:
    """Both outputs, in memory of their own: an operator neither writes over nor hands out what it was given."""
    found, complete = registry.slot(slot).variants[variant], kind(slot).complete(params)
    if inputs["state"] is not None:
        inputs = {**inputs, "state": inputs["state"].clone(memory_format=torch.contiguous_format)}
    out: Outputs = found.run(ready(found, inputs, complete, dims), complete, dims)
    return out[0].contiguous(), out[1].contiguous()
