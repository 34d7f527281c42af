"""Attention kernels skip the keys that the mask hides: work counts visible pairs only. FLOPs fall, nothing else
changes.
"""

from __future__ import annotations

from tracer.match.claim import Matched
from tracer.rewrite import rewrite

_KINDS = (
    "context_attention",
    "generation_attention",
    "context_mla",
    "generation_mla",
    "compressed_attention",
    "sparse_attention",
    "sparse_indexer",
)


@rewrite("skip_masked_keys", lowerings=("torch", "serving"), order=40)
def skip_masked_keys(matched: Matched) -> int:
    """`masking` from "computed" to "skipped" on every causal attention."""
    fired = 0
    for claim in matched.of(*_KINDS):
        if claim.params.get("causal", True) and claim.params["masking"] == "computed":
            claim.params["masking"] = "skipped"
            claim.params.pop("whole_cache", None)  # what is kept and not seen is not read
            claim.rewrites.append("skip_masked_keys")
            fired += 1
    return fired
