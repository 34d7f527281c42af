"""The vocabulary of signatures: each feature of an architecture, in words, with its weight when two are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

# What decides which ops a layer has, what changes one of them, and what hardly shows in its time.
STRUCTURE, VARIANT, DETAIL = 4.0, 2.0, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One feature: its name, what a reader calls it, and how much it weighs."""

    name: str
    words: str
    weight: float


_WORDS = {
    STRUCTURE: {
        "attention:latent": "latent attention (MLA)",
        "attention:plain": "attention over key and value heads",
        "attention:sparse": "attention over selected keys",
        "conv:causal": "short causal convolution",
        "layers:single_mixer": "one mixer, MLP or expert block per layer",
        "mlp:dense": "dense MLP layers",
        "moe:routed": "routed experts",
        "scan:gated_delta_rule:channel": "gated delta rule, gates per channel (KDA)",
        "scan:gated_delta_rule:scalar": "gated delta rule, one gate per head (GDN)",
        "scan:mamba1": "Mamba 1 scan",
        "scan:mamba2": "Mamba 2 scan",
        "sparse:indexer": "indexer that scores the keys",
    },
    VARIANT: {
        "attention:bidirectional": "attention without a causal mask",
        "attention:chunk": "chunked local attention",
        "attention:full": "full attention",
        "attention:qk_norm": "norms of q and k",
        "attention:sinks": "attention sinks",
        "attention:softcap": "soft cap on attention scores",
        "attention:window": "sliding windows",
        "bmm:activations": "products of two activations",
        "bmm:weights": "batched products with weights",
        "layers:hybrid": "attention and recurrent layers in turn",
        "layers:interleaved_dense": "dense layers between the expert layers",
        "layers:leading_dense": "leading dense layers before the expert layers",
        "layers:parallel_mixers": "attention and a recurrent mixer side by side",
        "layers:without_mixer": "some layers without a mixer",
        "mlp:gated": "gated MLP",
        "mlp:plain": "MLP without a gate",
        "moe:beside_mlp": "dense MLP beside the experts",
        "moe:gated": "gated experts",
        "moe:latent": "experts in a narrower latent space",
        "moe:plain": "experts without a gate",
        "moe:shared_experts": "shared experts",
        "sparse:blocks": "selection by block scores",
        "sparse:shared": "selection shared between layers",
    },
    DETAIL: {
        "attention:gqa": "grouped key/value heads (GQA)",
        "attention:mha": "a key/value head per query head (MHA)",
        "attention:mixed_heads": "head shapes that differ between layers",
        "attention:mqa": "one key/value head (MQA)",
        "attention:output_gate": "gate on the attention output",
        "attention:query_low_rank": "low-rank queries",
        "attention:value_size": "values of another size than keys",
        "bias:attention_in": "biases of q, k, v",
        "bias:attention_out": "bias of the attention output",
        "bias:mlp": "biases in the MLP",
        "embedding:several": "further embeddings besides the tokens",
        "embedding:tied": "tied embeddings",
        "logits:softcap": "soft cap on logits",
        "mlp:gelu": "GELU in the MLP",
        "mlp:mixed_widths": "MLP widths that differ between layers",
        "mlp:relu": "ReLU in the MLP",
        "mlp:silu": "SiLU in the MLP",
        "moe:bias": "biases in the experts",
        "moe:shared_expert_gate": "gate on the shared expert",
        "moe:top_1": "one expert per token",
        "norm:layer": "layer norms",
        "norm:rms": "RMS norms",
        "norm:sandwich": "norms before and after each block",
    },
}

FEATURES: Mapping[str, Feature] = MappingProxyType(
    {
        name: Feature(name=name, words=words, weight=weight)
        for weight, group in _WORDS.items()
        for name, words in group.items()
    }
)


def feature(name: str) -> Feature:
    """The feature of this name; an op kind without one of its own is a part of the structure, `op:<kind>`."""
    if name in FEATURES:
        return FEATURES[name]
    words = name.partition(":")[2].replace("_", " ")
    return Feature(name=name, words=words, weight=STRUCTURE)
