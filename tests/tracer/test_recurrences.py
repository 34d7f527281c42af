"""Recurrences that models write as loops: each becomes one node of the reference's form, with the reference's work."""

from __future__ import annotations

import ast
import inspect
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.minimax import modeling_minimax as minimax
from transformers.models.recurrent_gemma import modeling_recurrent_gemma as recurrent_gemma
from transformers.models.rwkv import modeling_rwkv as rwkv
from transformers.models.xlstm import modeling_xlstm as xlstm

from oplib.op import Op
from oplib.symbols import B, S
from tests.tracer import toy
from tests.tracer.toy import WIDTH, claims, heads
from tracer import boundaries
from tracer.boundaries import linear_attention, mlstm, rg_lru, wkv
from tracer.boundaries.linear_attention import _recurrence
from tracer.method_blocks import with_call

BF16, F32 = torch.bfloat16, torch.float32
BATCH, HEADS, K, V, CHUNK = 2, 4, 6, 10, 8


def tensor(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.rand(shape, dtype=F32).to(dtype)


def form(value):
    """Shapes and dtypes of what a function returned, with its nesting."""
    if isinstance(value, tuple | list):
        return [form(v) for v in value]
    return (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else value


def on_meta(value):
    if isinstance(value, tuple | list):
        return type(value)(on_meta(v) for v in value)
    return value.to("meta") if isinstance(value, torch.Tensor) else value


def counted(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


# form of the results ----------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("dtype", [BF16, F32])
def test_wkv(tokens, keep, filled, dtype):
    """Outputs like the keys, three states in float32, and none where none is asked for."""
    state = [tensor(2, 6, dtype=F32) for _ in range(3)] if filled else None
    args = [tensor(6, dtype=dtype), tensor(6, dtype=dtype), *(tensor(2, tokens, 6) for _ in "kv")]
    expected = rwkv.rwkv_linear_attention(*args, state=state, return_state=keep)
    found = wkv.rwkv_linear_attention(*on_meta(args), state=on_meta(state), return_state=keep)
    assert form(found) == form(expected)


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("filled", [True, False])
def test_rg_lru(tokens, filled):
    """Outputs like the inputs, the state in the dtype of accumulation."""
    reset = torch.zeros(1, tokens, 1, dtype=torch.bool)
    state = tensor(2, 6, dtype=F32) if filled else None
    args = [tensor(2, tokens, 6), tensor(2, tokens, 6), reset, state]
    expected = recurrent_gemma.RecurrentGemmaRglru._rnn_scan(None, *args)
    assert form(rg_lru.rnn_scan(None, *on_meta(args))) == form(expected)


def backend(**options):
    config = xlstm.xLSTMConfig(
        hidden_size=32, num_heads=HEADS, num_hidden_layers=1, chunk_size=CHUNK, **options
    )
    return xlstm.xLSTMBackend(config)


def mlstm_arguments(tokens: int, dtype: torch.dtype = BF16):
    sizes = [(tokens, K), (tokens, K), (tokens, V), (tokens,), (tokens,), (K, V), (K,), (1,)]
    return [tensor(BATCH, HEADS, *size, dtype=dtype) for size in sizes]


@pytest.mark.parametrize("tokens", [1, 5, CHUNK, CHUNK + 3, 2 * CHUNK])
@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16"])
def test_mlstm(tokens, state_dtype):
    """Whole chunks leave states as wide as the keys, a rest or a single token in the configured dtype."""
    module, args = backend(inference_state_dtype=state_dtype), mlstm_arguments(tokens)
    assert form(mlstm.mlstm(module, *on_meta(args))) == form(module(*args))


@pytest.mark.parametrize("keep", [True, False])
def test_mlstm_for_training(keep):
    """In the modes for training the states come back on demand alone."""
    module, args = backend(mode="train", return_last_states=keep), mlstm_arguments(CHUNK)
    assert form(mlstm.mlstm(module, *on_meta(args))) == form(module(*args))


def lightning(layers: int = 2, block: int = CHUNK):
    config = minimax.MiniMaxConfig(
        hidden_size=32, num_attention_heads=HEADS, head_dim=K, num_hidden_layers=layers, block_size=block
    )  # fmt: skip
    return minimax.MiniMaxLightningAttention(config, 0)


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize("tokens", [1, 5, CHUNK, 2 * CHUNK + 3])
@pytest.mark.parametrize("filled", [True, False])
def test_linear_attention(tokens, filled, dtype):
    """The whole module gives the same form with its recurrence as one node, and leaves the same state."""
    module, x = lightning().to(dtype).eval(), tensor(BATCH, tokens, 32, dtype=dtype)
    meta = lightning().to("meta", dtype).eval()
    caches = [minimax.MiniMaxCache() for _ in range(2)]
    if filled:
        state = tensor(BATCH, HEADS, K, K, dtype=dtype)
        for cache, value in zip(caches, (state, on_meta(state)), strict=True):
            cache.set_linear_cache(0, value)
    with torch.no_grad():
        expected = module(x, None, None, caches[0])
        with boundaries.bind(meta):
            found = meta(on_meta(x), None, None, caches[1])
    assert form(found) == form(expected)
    assert form(caches[1].linear_cache) == form(caches[0].linear_cache)


# work -------------------------------------------------------------------------------------------


def work(kind: str, tokens: int, width: int) -> int:
    """FLOPs of the products of the chunked form: all but the recurrence over chunks, which is elementwise."""
    params = {"num_heads": HEADS, "head_k_dim": K, "head_v_dim": width, "chunk_size": CHUNK}
    params |= {"dtype": "bfloat16", "state_dtype": "float32", "phase": "context"}
    total = Op(op=kind, name="x", params=params, dims={"b": BATCH, "s": tokens}).flops
    return int(total) - 2 * BATCH * HEADS * -(-tokens // CHUNK) * K * width


@pytest.mark.parametrize("chunks", [1, 3])
def test_products_of_mlstm(chunks):
    """torch's counter sees the same products in the reference."""
    module, args = backend(), mlstm_arguments(chunks * CHUNK)
    assert counted(lambda: module(*args)) == work("mlstm", chunks * CHUNK, V)


@pytest.mark.parametrize("chunks", [1, 3])
def test_products_of_linear_attention(chunks):
    """torch's counter sees the same products in the reference, next to those of the projections."""
    module, tokens = lightning(), chunks * CHUNK
    x = torch.rand(BATCH, tokens, 32)
    projections = 2 * BATCH * tokens * 32 * HEADS * K * 5  # q, k, v, gate, output
    found = counted(lambda: module(x, None, None, None))
    assert found == projections + work("linear_attention", tokens, K)


# matchers ---------------------------------------------------------------------------------------


def test_match_linear_attention():
    """Sizes come off the tensors, the chunk off the call."""

    def body(_m, x):
        q, k, v = heads(x, 4), heads(x, 4), heads(x, 2).repeat(1, 2, 1, 1)
        out, _ = linear_attention._OP(q, k, v, x.new_ones(4, 1, 1), None, 16)
        return out.flatten(2)

    (claim,) = claims(toy.matched(body), "linear_attention")
    names = ("num_heads", "head_k_dim", "head_v_dim", "chunk_size", "phase", "state_dtype")
    assert [claim.params[n] for n in names] == [4, 6, 12, 16, "context", "bfloat16"]
    assert claim.dims == {"b": B, "s": S}


def test_match_mlstm():
    """States that are given fix the width that moves."""

    def body(_m, x):
        q, gate = heads(x, 4), x[..., :4].transpose(1, 2)
        states = [x.new_zeros(x.shape[0], 4, *size) for size in ((6, 6), (6,), (1,))]
        return mlstm._OP(q, q, q, gate, gate, states, 16, F32)[0].flatten(2)

    (claim,) = claims(toy.matched(body), "mlstm")
    names = ("num_heads", "head_k_dim", "head_v_dim", "chunk_size", "state_dtype")
    assert [claim.params[n] for n in names] == [4, 6, 6, 16, "bfloat16"]


def test_match_wkv():
    """The decay and the bonus are its weights."""
    parts = {"w": toy.parameter(WIDTH), "u": toy.parameter(WIDTH)}
    found = toy.matched(lambda m, x: wkv.rwkv_linear_attention(m.w, m.u, x, x)[0], **parts)
    (claim,) = claims(found, "wkv")
    assert claim.params["channels"] == WIDTH
    assert claim.params["state_dtype"] == "float32"
    assert len(claim.parameters) == 2
    assert not found.primitives


def test_match_rg_lru():
    """One token's work is one multiply-add per channel."""
    found = toy.matched(lambda m, x: rg_lru.rnn_scan(m, x, x, x[..., :1] > 0, None)[0])
    (claim,) = claims(found, "rg_lru")
    assert (claim.params["channels"], claim.dims) == (WIDTH, {"b": B, "s": S})


@pytest.mark.parametrize("name", ["linear_attention", "mlstm", "wkv", "rg_lru"])
def test_without_its_matcher_a_recurrence_is_a_primitive(name):
    """Nothing else takes a boundary."""
    calls = {
        "linear_attention": lambda x: linear_attention._OP(*[heads(x, 4)] * 3, x, None, 8)[0],
        "mlstm": lambda x: mlstm._OP(*[heads(x, 4)] * 3, x, x, [], 8, F32)[0],
        "wkv": lambda x: wkv._OP(x, x, x, x, [])[0],
        "rg_lru": lambda x: rg_lru._OP(x, x, x, None, F32)[0],
    }
    found = toy.matched(lambda _m, x: calls[name](x), without=(name,))
    assert f"no op computes trace_model.{name}" in toy.reasons(found)


# conv1d -----------------------------------------------------------------------------------------


def convolved(**options):
    conv = torch.nn.Conv1d(WIDTH, WIDTH, 3, device="meta", dtype=BF16, **options)
    return toy.matched(lambda m, x: m.part(x.transpose(1, 2)), part=conv)


@pytest.mark.parametrize("groups", [1, 4, WIDTH])
@pytest.mark.parametrize("padding", [0, 2])
def test_match_conv1d(groups, padding):
    """Positions made are the dim, padding on both sides adds to them; weight and bias are its own."""
    found = convolved(groups=groups, padding=padding)
    (claim,) = claims(found, "conv1d")
    assert (claim.params["groups"], claim.params["kernel_size"]) == (groups, 3)
    assert claim.dims == {"b": B, "s": S - 2 + 2 * padding}
    assert len(claim.parameters) == 2
    assert not found.primitives


def test_match_dilated_conv1d():
    """Filters of 3 positions 2 apart span 5."""
    (claim,) = claims(convolved(padding=4, dilation=2), "conv1d")
    assert (claim.params["dilation"], claim.params["kernel_size"]) == (2, 3)
    assert claim.dims == {"b": B, "s": S + 4}


def test_a_conv1d_that_skips_positions_is_refused():
    """Its input is not as many positions as it makes, and those that a filter spans."""
    assert "conv1d: its stride is 2, not 1" in toy.reasons(convolved(padding=4, stride=2))


def test_baddbmm_owns_its_bias():
    """Block-diagonal gates: a stack of matrices and a bias, both parameters of one product."""
    parts = {"w": toy.parameter(4, 6, 6), "offset": toy.parameter(4, 6)}

    def body(m, x):
        rows = x.reshape(-1, 4, 6).permute(1, 0, 2)
        return torch.baddbmm(m.offset[:, None, :], rows, m.w).sum(0)

    (claim,) = claims(toy.matched(body, **parts), "bmm")
    assert len(claim.parameters) == 2


# adoption ---------------------------------------------------------------------------------------


def tree(method) -> ast.FunctionDef:
    (function,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(method)).strip()).body
    return function


class Loops(torch.nn.Module):
    """A loop over tokens that is not linear attention: no slopes, no blocks."""

    def forward(self, query, key, value, state):
        if state is None:
            outputs = []
            for i in range(query.shape[2]):
                outputs.append(query[:, :, i] + key[:, :, i] + value[:, :, i])
        else:
            outputs = []
            for i in range(query.shape[2]):
                outputs.append(query[:, :, i] - key[:, :, i] - value[:, :, i])
        return outputs, state


def test_another_loop_is_no_linear_attention():
    """Two loops that append are not enough; the module's slopes and block size belong to it."""
    assert with_call(Loops.forward, _recurrence, print) is None
    method = minimax.MiniMaxLightningAttention.forward
    assert with_call(method, _recurrence, print) is not None


def test_a_changed_method_keeps_its_lines():
    """Source lines in a report are those of the file: the statements around the block do not move."""
    method = minimax.MiniMaxLightningAttention.forward
    changed = with_call(method, _recurrence, print)
    lines = {line for *_, line in changed.__code__.co_lines() if line}
    assert lines < {line for *_, line in method.__code__.co_lines() if line}
    assert changed.__code__.co_filename == method.__code__.co_filename


def test_methods_are_bound_by_name_and_arguments():
    """Within `bind` the method is the boundary, afterwards it is the model's own; another signature stays."""

    class Other(torch.nn.Module):
        def _rnn_scan(self, x, y):
            return x + y

    own = recurrent_gemma.RecurrentGemmaRglru._rnn_scan
    scan = recurrent_gemma.RecurrentGemmaRglru(SimpleNamespace(num_attention_heads=2, lru_width=8))
    model, other = torch.nn.Sequential(scan, Other()), Other._rnn_scan
    with boundaries.bind(model):
        assert recurrent_gemma.RecurrentGemmaRglru._rnn_scan is rg_lru.rnn_scan
        assert Other._rnn_scan is other
    assert recurrent_gemma.RecurrentGemmaRglru._rnn_scan is own
