"""FlashInfer's wrappers get what their published signatures (0.6.9) ask for: here stand-ins in torch, on the CPU."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch

from oplib.kernels.check import check
from oplib.kernels.registry import slot
from oplib.kernels.variant import Inputs


def attended(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, causal: bool, left: int
) -> torch.Tensor:
    """One sequence: q[s, heads, d] over k[t, kv heads, d]; the last query sees the last key."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, 1).double() for x in (k, v))
    scores = torch.einsum("shd,thd->hst", q.double(), k) * scale
    back = (
        torch.arange(q.shape[0])[:, None]
        + k.shape[0]
        - q.shape[0]
        - torch.arange(k.shape[0])[None, :]
    )
    hidden = (back < 0) & causal | (back > left) & (left >= 0)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("hst,thd->shd", weights, v).to(q.dtype)


def parts(starts: torch.Tensor) -> list[slice]:
    assert starts.dtype == torch.int32
    return [slice(a, b) for a, b in zip(starts.tolist(), starts.tolist()[1:], strict=False)]


class Ragged:
    def __init__(self, workspace: torch.Tensor, kv_layout: str = "NHD") -> None:
        assert (workspace.dtype, kv_layout) == (torch.uint8, "NHD")

    def plan(
        self, qo_indptr, kv_indptr, num_qo_heads, num_kv_heads, head_dim_qk, head_dim_vo=None, *, causal=False,
        window_left=-1, sm_scale=None, q_data_type="float16", kv_data_type=None,
    ) -> None:  # fmt: skip
        self.q, self.kv = parts(qo_indptr), parts(kv_indptr)
        self.shape = (num_qo_heads, num_kv_heads, head_dim_qk, q_data_type, kv_data_type)
        self.how = {"scale": sm_scale or head_dim_qk**-0.5, "causal": causal, "left": window_left}

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        assert self.shape == (q.shape[1], k.shape[1], q.shape[2], q.dtype, k.dtype)
        assert k.is_contiguous()
        assert v.is_contiguous()
        found = [
            attended(q[a], k[b], v[b], **self.how) for a, b in zip(self.q, self.kv, strict=True)
        ]
        return torch.cat(found)


class Decode:
    def __init__(
        self, workspace: torch.Tensor, kv_layout: str = "NHD", *, use_tensor_cores: bool = False
    ) -> None:
        assert (workspace.dtype, kv_layout) == (torch.uint8, "NHD")

    def plan(
        self, indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, *, window_left=-1,
        q_data_type="float16", kv_data_type=None,
    ) -> None:  # fmt: skip
        self.pages = [indices[one] for one in parts(indptr)]
        lengths = [(len(pages) - 1) * page_size for pages in self.pages]
        self.lengths = [a + b for a, b in zip(lengths, last_page_len.tolist(), strict=True)]
        self.shape = (num_qo_heads, num_kv_heads, head_dim, page_size, q_data_type, kv_data_type)
        self.left = window_left

    def run(self, q: torch.Tensor, cache: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        k, v = cache
        assert self.shape == (q.shape[1], k.shape[2], q.shape[2], k.shape[1], q.dtype, k.dtype)
        found = []
        for one, pages, length in zip(q, self.pages, self.lengths, strict=True):
            keys, values = (x[pages.long()].flatten(0, 1)[:length] for x in (k, v))
            how: dict[str, Any] = {"scale": q.shape[2] ** -0.5, "causal": True, "left": self.left}
            found.append(attended(one[None], keys, values, **how))
        return torch.cat(found)


class Latent:
    def __init__(self, workspace: torch.Tensor) -> None:
        assert workspace.dtype == torch.uint8

    def plan(
        self, qo_indptr, kv_indptr, kv_indices, kv_len_arr, num_heads, head_dim_ckv, head_dim_kpe, page_size, causal,
        sm_scale, q_data_type, kv_data_type,
    ) -> None:  # fmt: skip
        self.q, self.pages = parts(qo_indptr), [kv_indices[one] for one in parts(kv_indptr)]
        self.lengths = kv_len_arr.tolist()
        self.shape = (num_heads, head_dim_ckv, head_dim_kpe, page_size, q_data_type, kv_data_type)
        self.how = {"scale": sm_scale, "causal": causal, "left": -1}

    def run(self, q, q_pe, ckv, kpe, *, return_lse: bool) -> torch.Tensor:
        sizes = (q.shape[1], q.shape[2], q_pe.shape[2], ckv.shape[1])
        assert self.shape == (*sizes, q.dtype, ckv.dtype)
        assert not return_lse
        found = []
        for one, pages, length in zip(self.q, self.pages, self.lengths, strict=True):
            latent, rotary = (x[pages.long()].flatten(0, 1)[:length, None] for x in (ckv, kpe))
            queries = torch.cat([q[one], q_pe[one]], -1)
            found.append(attended(queries, torch.cat([latent, rotary], -1), latent, **self.how))
        return torch.cat(found)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("flashinfer")
    package.BatchPrefillWithRaggedKVCacheWrapper = Ragged  # type: ignore[attr-defined]
    package.BatchDecodeWithPagedKVCacheWrapper = Decode  # type: ignore[attr-defined]
    package.mla = types.SimpleNamespace(BatchMLAPagedAttentionWrapper=Latent)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flashinfer", package)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("name", ["context_attention", "generation_attention", "generation_mla"])
def test_what_it_does_not_refuse_comes_out_right(name: str) -> None:
    """Examples of the slot, and those with sizes that fill no page."""
    variant, right = slot(name).variants["flashinfer"], 0
    for params, dims in slot(name).examples:
        if name == "generation_mla":
            params = {**params, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
        for sizes in (dims, {**dims, "p": 37} if "p" in dims else dims):
            kind_of = params["dtype"] in ("bfloat16", "float16")
            if not kind_of or variant.refuses(params, sizes):
                continue
            found = check(variant, params, sizes, device="cpu", seed=right)
            assert found.ok, f"{params} {sizes}: {found}"
            right += 1
    assert right >= 3


@pytest.mark.usefixtures("stand_in")
def test_a_wrong_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check would see pages in another order."""
    variant = slot("generation_attention").variants["flashinfer"]
    plain = variant.prepare

    def mixed(inputs: Inputs, params: Any, dims: Any) -> Inputs:
        ready = plain(inputs, params, dims)
        ready["cache"] = tuple(cache.flip(0) for cache in ready["cache"])
        return ready

    monkeypatch.setattr(variant, "prepare", mixed)
    params, dims = next(
        (p, d)
        for p, d in slot("generation_attention").examples
        if p["dtype"] == "bfloat16" and not variant.refuses(p, d)
    )
    assert not check(variant, params, {**dims, "p": 37}, device="cpu", seed=1).ok
