"""Published models: exact conservation for every one that transformers can build, and known sizes of some."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path

import pytest
from transformers.models.deepseek_v32.modeling_deepseek_v32 import DeepseekV32Attention

from oplib.errors import UnsupportedModelError
from tests.tracer.older import angles_by_product
from tracer import analysis

pytestmark = pytest.mark.slow

PUBLISHED = Path(__file__).parents[3] / "shared" / "model_configs"
#: transformers has no code for them: the model ships its own.
FOREIGN = {"moonshotai--Kimi-K3", "nvidia--Llama-3_3-Nemotron-Super-49B-v1"}
NAMES = sorted(f.name for f in PUBLISHED.iterdir()) if PUBLISHED.is_dir() else []

#: Counts per kind of layer, and cache bytes per token and per sequence (bf16), worked out by hand from the configs.
KNOWN = {
    # 61 layers of 512 + 64 values
    "deepseek-ai--DeepSeek-V3": ([3, 58], 61 * 576 * 2, 0),
    "moonshotai--Kimi-K2-Instruct": ([1, 60], 61 * 576 * 2, 0),
    # and 128 values of the indexer
    "deepseek-ai--DeepSeek-V3.2": ([3, 58], 61 * (576 + 128) * 2, 0),
    # layers x 2 x kv heads x head dim
    "Qwen--Qwen3-8B": ([36], 36 * 2 * 8 * 128 * 2, 0),
    "Qwen--Qwen3-0.6B": ([28], 28 * 2 * 8 * 128 * 2, 0),
    "Qwen--Qwen3-235B-A22B": ([94], 94 * 2 * 4 * 128 * 2, 0),
    "meta-llama--Meta-Llama-3.1-405B": ([126], 126 * 2 * 8 * 128 * 2, 0),
    "mistralai--Mixtral-8x7B-v0.1": ([32], 32 * 2 * 8 * 128 * 2, 0),
    # 12 full layers grow; 12 layers of a window of 128 keep 127 tokens
    "openai--gpt-oss-20b": ([12, 12], 12 * 2 * 8 * 64 * 2, 12 * 127 * 2 * 8 * 64 * 2),
    # 12 full layers, 36 of chunks of 8192
    "meta-llama--Llama-4-Scout-17B-16E-Instruct": (
        [36, 12],
        12 * 2 * 8 * 128 * 2,
        36 * 8191 * 2 * 8 * 128 * 2,
    ),
}


#: Where transformers expands keys and values before it caches them: 128 heads of 192 + 128, and the indexer's key.
EXPANDED = {"deepseek-ai--DeepSeek-V3.2": 61 * (128 * (192 + 128) + 128) * 2}


def _caches_expanded() -> bool:
    source = inspect.getsource(DeepseekV32Attention.forward)
    return source.index("self.expand_kv(") < source.index("past_key_values.update(")


@functools.cache
def report(name: str) -> dict:
    return analysis.analyse(str(PUBLISHED / name), analysis.Options())


@pytest.fixture(autouse=True)
def _configs(published_configs):
    """Skip where the configs are not at hand."""
    assert published_configs.is_dir()


def counted() -> list:
    """The configs that trace; DeepSeek-V4's are marked."""
    return [
        pytest.param(n, marks=angles_by_product) if "DeepSeek-V4" in n else n
        for n in NAMES
        if n not in FOREIGN
    ]


@pytest.mark.parametrize("name", counted())
def test_conservation_is_exact(name):
    """Weights, FLOPs and nodes, with no primitive."""
    found = report(name)
    assert found["conservation"]["exact"]
    assert not found["full_depth"]
    assert not found["unsupported"]
    assert found["situation"] == "S1-or-S2"


@pytest.mark.parametrize("name", sorted(FOREIGN & set(NAMES)))
def test_code_of_the_hub_does_not_run_unasked(name):
    """The error says what the model needs."""
    with pytest.raises(UnsupportedModelError, match="trust-remote-code"):
        report(name)


@pytest.mark.parametrize("name", sorted(set(KNOWN) & set(NAMES)))
def test_known_layers_and_cache(name):
    """Layers per kind, and bytes of the cache."""
    counts, per_token, per_sequence = KNOWN[name]
    if name in EXPANDED and _caches_expanded():
        per_token = EXPANDED[name]
    found = report(name)
    assert sorted(k["count"] for k in found["layers"]) == sorted(counts)
    assert found["kv_cache"]["bytes_per_token"] == per_token
    assert found["kv_cache"]["bytes_per_sequence"] == per_sequence


@pytest.mark.skipif(not NAMES, reason="the published configs are not at hand")
def test_deepseek_v3_in_numbers():
    """61 MLA layers, absorbed in generation; 58 MoE layers of 256 experts, 8 chosen, in fp8 blocks."""
    phases = report("deepseek-ai--DeepSeek-V3")["op_list"]["phases"]
    cores = [o for o in phases["generation"] if o["op"] == "generation_mla"]
    assert sum(o["count"] for o in cores) == 61
    assert all(o["params"]["absorbed"] for o in cores)
    (moe,) = [o for o in phases["context"] if o["op"] == "moe"]
    assert (moe["count"], moe["params"]["num_experts"], moe["params"]["top_k"]) == (58, 256, 8)
    assert (moe["params"]["hidden_size"], moe["params"]["intermediate_size"]) == (7168, 2048)
    assert moe["params"]["dtype"] == "fp8_block"


@pytest.mark.skipif(not NAMES, reason="the published configs are not at hand")
def test_qwen3_8b_in_numbers():
    """The products that engines run: 36 of each, and one head."""
    ops = report("Qwen--Qwen3-8B")["op_list"]["phases"]["context"]
    assert [
        (o["name"], o["count"], o["params"]["n"], o["params"]["k"], o["dims"]["m"])
        for o in ops
        if o["op"] == "gemm"
    ] == [
        ("self_attn.qkv_proj", 36, 6144, 4096, "b*s"),
        ("self_attn.o_proj", 36, 4096, 4096, "b*s"),
        ("mlp.gate_up_proj", 36, 24576, 4096, "b*s"),
        ("mlp.down_proj", 36, 4096, 12288, "b*s"),
        ("lm_head", 1, 151936, 4096, "b"),
    ]
