"""The kernel registry: what is found, what is chosen and why not, and that variants compute what their slot says."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from oplib.errors import DuplicateNameError, InvalidInputError
from oplib.kernels import registry
from oplib.kernels.check import check
from oplib.kernels.compiled import Compiled
from oplib.kernels.hardware import Hardware, hardware
from oplib.kernels.registry import dump, resolve, slot, slots, why
from oplib.kernels.source import FreshSource, PoolSource
from oplib.kernels.variant import Needs, Variant
from oplib.registry import kind, op_kinds

ROOT = Path(__file__).resolve().parents[2]
CPU = hardware("cpu")
HOPPER = Hardware(type="cuda", name="H200", capability=(9, 0))
BLACKWELL = Hardware(type="cuda", name="B200", capability=(10, 0))
AMPERE = Hardware(type="cuda", name="A100", capability=(8, 0))


def runnable() -> list[tuple[Variant, int]]:
    return [
        (variant, i)
        for one in slots().values()
        for variant in one.variants.values()
        for i, (params, dims) in enumerate(one.examples)
        if variant.why_not(CPU, params, dims) is None
    ]


def test_every_file_is_a_variant() -> None:
    """The folders are the registry: a slot per folder, named as an op kind, a variant per file."""
    folders = {
        path.name: {f.stem for f in path.glob("*.py")} - {"__init__"}
        for path in (ROOT / "oplib" / "kernels").iterdir()
        if (path / "__init__.py").exists()
    }
    assert {name: set(one.variants) for name, one in slots().items()} == folders
    assert set(folders) <= set(op_kinds())


@pytest.mark.parametrize(("variant", "example"), runnable(), ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_variants_are_right(variant: Variant, example: int, seed: int) -> None:
    """Against the reference in float64, on inputs of two seeds, outputs poisoned."""
    params, dims = slot(variant.slot).examples[example]
    found = check(variant, params, dims, device="cpu", seed=seed)
    assert found.ok, found


def test_the_check_sees_one_wrong_element() -> None:
    """A variant that leaves one element out, or a row unwritten, does not pass."""
    registry.extend("tests.collector.plugin")
    params, dims = kind("gemm").complete({"n": 33, "k": 16, "dtype": "bfloat16"}), {"m": 64}
    for name in ("wrong", "unwritten"):
        variant = slot("gemm").variants[name]
        assert not check(variant, params, dims, device="cpu", seed=0).ok


@pytest.mark.parametrize("s", [1, 5, 19, 37])
def test_chunks_are_the_recurrence(s: int) -> None:
    """The chunked scan and the chunked delta rule give what one token after the other gives, to rounding in float64."""
    from oplib.kernels.gated_delta_rule.eager import Eager as TokenByToken
    from oplib.kernels.mamba2.eager import chunked, stepped

    torch.manual_seed(s)
    drive, b, c = (torch.randn(2, s, 3, n, dtype=torch.float64) for n in (5, 4, 4))
    decay = -torch.rand(2, s, 3, dtype=torch.float64)
    whole = chunked(drive, decay, b, c, 8)
    steps = stepped(drive, decay, b, c, torch.zeros(2, 3, 5, 4, dtype=torch.float64))
    for one, other in zip(whole, steps, strict=True):
        torch.testing.assert_close(one, other)
    rule = slot("gated_delta_rule")
    params = kind("gated_delta_rule").complete(
        {"num_k_heads": 2, "num_v_heads": 4, "head_k_dim": 8, "head_v_dim": 6, "chunk_size": 8,
         "dtype": "float32", "state_dtype": "float32", "phase": "context"}
    )  # fmt: skip
    dims = {"b": 2, "s": s}
    inputs = rule.reference.inputs(params, dims, FreshSource("cpu", s))
    inputs = {k: v if v is None else v.double() for k, v in inputs.items()}
    truth = TokenByToken("gated_delta_rule", "eager", None).run(inputs, params, dims)
    for one, other in zip(rule.variants["chunked"].run(inputs, params, dims), truth, strict=True):
        torch.testing.assert_close(one, other)


def test_power_laws_are_skewed() -> None:
    """Under a power law the busiest expert has more of the tokens than when all are alike."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_experts": 64, "top_k": 2, "dtype": "bfloat16"}  # fmt: skip
    busiest = {}
    for distribution in ("balanced", "power_law_1.01", "power_law_1.2"):
        params = kind("moe").complete({**sizes, "distribution": distribution})
        logits = slot("moe").reference.inputs(params, {"m": 4096}, FreshSource("cpu", 3))["logits"]
        counts = torch.bincount(logits.topk(2).indices.flatten(), minlength=64)
        busiest[distribution] = int(counts.max())
    assert busiest["balanced"] < 200 < busiest["power_law_1.01"]
    assert busiest["balanced"] < busiest["power_law_1.2"]


def test_resolve_takes_the_preferred_variant_that_can_run() -> None:
    params = kind("gemm").complete({"n": 64, "k": 64, "dtype": "bfloat16"})
    fp8 = kind("gemm").complete({"n": 64, "k": 64, "dtype": "fp8"})
    assert resolve("gemm", device=HOPPER, params=params).name == "eager"
    assert resolve("gemm", device=HOPPER, params=fp8).name == "scaled_mm"
    assert resolve("context_attention", device=HOPPER).name == "sdpa_cudnn"
    assert resolve("context_attention", device=CPU).name == "sdpa"


@pytest.mark.parametrize(
    ("more", "dims", "name"),
    [
        ({}, (2, 512, 0), "sdpa_cudnn"),
        ({"window": 512}, (2, 512, 0), "sdpa_cudnn"),
        ({"window": 512}, (2, 513, 0), "flash"),
        ({}, (2, 512, 64), "flash"),
        ({"chunk": 256}, (2, 128, 128), "flash"),
        ({"chunk": 256}, (2, 257, 0), "sdpa_cudnn"),
        ({"head_dim": 512, "v_head_dim": 512}, (2, 512, 64), "sdpa"),
    ],
)
def test_what_knows_a_mask_goes_before_what_gets_it(more: dict, dims: tuple, name: str) -> None:
    params = kind("context_attention").complete(
        {**slot("context_attention").examples[0][0], **more}
    )
    sizes = dict(zip("bsp", dims, strict=True))
    assert resolve("context_attention", device=HOPPER, params=params, dims=sizes).name == name


def test_a_cache_in_another_dtype_is_refused() -> None:
    params = {**slot("context_attention").examples[0][0], "kv_dtype": "fp8"}
    for device in (CPU, HOPPER):
        with pytest.raises(InvalidInputError, match="dtype of the queries, bfloat16, not fp8"):
            resolve("context_attention", device=device, params=params)


def test_resolve_says_what_is_there_and_why_the_rest_is_not() -> None:
    fp8 = kind("gemm").complete({"n": 64, "k": 60, "dtype": "fp8"})
    with pytest.raises(InvalidInputError, match="needs n and k in multiples of 16, not 64 and 60"):
        resolve("gemm", "scaled_mm", device=HOPPER, params=fp8)
    with pytest.raises(InvalidInputError, match=r"Available: eager\. Not: scaled_mm needs cuda"):
        resolve("gemm", "scaled_mm", device=CPU)
    with pytest.raises(InvalidInputError, match="no variant 'cutlass'"):
        resolve("gemm", "cutlass", device=CPU)
    with pytest.raises(InvalidInputError, match="No kernel for 'fft'"):
        resolve("fft", device=CPU)
    with pytest.raises(InvalidInputError, match="No variant of gemm can run here"):
        resolve("gemm", device=CPU, params=fp8)


def test_a_reference_of_fp8_is_not_measured() -> None:
    """It widens what it multiplies: where no kernel takes the sizes, there is no row."""
    for dtype, inner in (("fp8", 64), ("fp8", 40), ("fp8_block", 128), ("fp8_block", 64)):
        sizes = {"hidden_size": 256, "intermediate_size": inner, "num_experts": 8, "top_k": 2}
        params = kind("moe").complete({**sizes, "dtype": dtype})
        words = why("moe", HOPPER, params)
        assert words["eager"] == f"takes float32, bfloat16, float16, not {dtype}"
        by_rows = {"fp8_block": "takes fp8, not fp8_block", "fp8": ""}[dtype]
        if inner == 40:
            by_rows = "needs sizes in multiples of 16, not 256 and 40"
        assert words["scaled_grouped_mm_compiled"] == by_rows


def test_float32_is_not_tf32() -> None:
    """A row that says float32 is measured in it, whatever the process was told."""
    wide, narrow = (
        kind("gemm").complete({"n": 64, "k": 64, "dtype": dtype})
        for dtype in ("float32", "bfloat16")
    )
    assert resolve("gemm", device=HOPPER, params=wide).name == "eager"
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(InvalidInputError, match="eager multiplies float32 in full precision"):
            resolve("gemm", device=HOPPER, params=wide)
        assert resolve("gemm", device=HOPPER, params=narrow).name == "eager"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("device", "words"),
    [(AMPERE, "needs compute capability 9.0 or more"), (BLACKWELL, "below 10.0"), (HOPPER, "")],
)
def test_capabilities_are_limits(device: Hardware, words: str) -> None:
    params = kind("gemm").complete({"n": 128, "k": 128, "dtype": "fp8_block"})
    assert words in why("gemm", device, params)["scaled_mm_block"]


def test_arguments_of_tensorrt_llm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its published linear layers pass to its operators, here stand-ins in torch."""
    import sys
    import types

    said = []

    def scaled(x, w, *, scale_a, scale_b, bias, out_dtype):
        said.append("scaled")
        assert bias is None
        return ((x.double() * scale_a) @ (w.double() * scale_b)).to(out_dtype)

    def plain(x, w, bias, out_dtype):
        said.append("plain")
        assert out_dtype is None
        return x @ w + (0 if bias is None else bias)

    package = types.ModuleType("tensorrt_llm")
    package.__spec__ = types.SimpleNamespace(name="tensorrt_llm")
    monkeypatch.setitem(sys.modules, "tensorrt_llm", package)
    operators = types.SimpleNamespace(cublas_scaled_mm=scaled, cublas_mm=plain)
    monkeypatch.setattr(torch.ops, "trtllm", operators, raising=False)
    variant = slot("gemm").variants["trtllm"]
    assert why("gemm", HOPPER)["trtllm"] == ""
    for params in ({"dtype": "fp8", "bias": True}, {"dtype": "bfloat16", "bias": True}):
        complete = kind("gemm").complete({"n": 32, "k": 48, **params})
        assert check(variant, complete, {"m": 5}, device="cpu", seed=0).ok
    assert set(said) == {"scaled", "plain"}


def test_missing_packages_are_told() -> None:
    assert "needs the package tensorrt_llm" in why("gemm", HOPPER)["trtllm"]
    assert any("unverified" in line for line in dump(HOPPER))


def test_an_unverified_variant_is_never_taken_unasked() -> None:
    unverified = [v for one in slots().values() for v in one.variants.values() if v.unverified]
    assert unverified
    for variant in unverified:
        everywhere = Hardware(type="cuda", capability=(9, 0))
        try:
            assert resolve(variant.slot, device=everywhere).name != variant.name
        except InvalidInputError:
            continue


def test_two_variants_of_one_name_stop() -> None:
    with pytest.raises(DuplicateNameError, match="has a variant"):
        registry.extend("oplib.kernels")


def test_tensors_of_a_set_do_not_overlap_and_sets_rotate() -> None:
    """Views of the pool: activations are shared by the sets, weights are elsewhere in each."""
    source = PoolSource("cpu", 0, start=1 << 16, limit=1 << 20)
    source.begin_case()
    first = source.activation((100,), torch.float32)
    places = []
    for _ in range(5):
        source.begin_set()
        assert source.activation((100,), torch.float32).data_ptr() == first.data_ptr()
        one, two = (source.weight((1000,), torch.float32) for _ in range(2))
        spans = sorted((t.data_ptr(), t.data_ptr() + 4 * t.numel()) for t in (first, one, two))
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        assert source.cold_bytes == 8000
        places.append(one.data_ptr())
    assert len(set(places)) == 5
    with pytest.raises(MemoryError, match="over 1048576"):
        source.weight((1 << 20,), torch.float32)


def compiled_ones() -> list[tuple[Variant, int]]:
    """Compiled variants on the examples of their slot, by a backend of torch that runs what was captured as it is."""
    found = []
    for one in slots().values():
        for variant in one.variants.values():
            if not isinstance(variant, Compiled):
                continue
            anywhere = Needs(dtypes=type(variant).needs.dtypes)
            stand_in = type("StandIn", (type(variant),), {"backend": "eager", "needs": anywhere})
            made = stand_in(variant.slot, variant.name, one.reference.inputs)
            found += [
                (made, i)
                for i, (params, dims) in enumerate(one.examples)
                if made.why_not(CPU, params, dims) is None
            ]
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler has its own
@pytest.mark.parametrize(("variant", "example"), compiled_ones(), ids=str)
def test_compiled_variants_are_right(variant: Variant, example: int) -> None:
    params, dims = slot(variant.slot).examples[example]
    found = check(variant, params, dims, device="cpu", seed=0)
    assert found.ok, found


@pytest.mark.parametrize(
    ("slot_name", "width", "words"),
    [
        ("context_attention", 256, ""),
        ("context_attention", 512, "wider than 256"),
        ("generation_attention", 512, ""),
    ],
)
def test_flex_refuses_prompts_with_wide_heads(slot_name: str, width: int, words: str) -> None:
    """Its tiles over many queries do not fit into shared memory; those over one query do."""
    params, dims = slot(slot_name).examples[0]
    reason = why(slot_name, HOPPER, {**params, "head_dim": width, "v_head_dim": width}, dims)
    assert words in reason["flex"]
    assert bool(reason["flex"]) == bool(words)


def test_each_output_of_a_cluster_is_written() -> None:
    """No output is an input, nor another output: a compiler would leave it out."""
    one = slot("pointwise")
    for params, dims in one.examples:
        given = one.reference.inputs(params, dims, FreshSource("cpu", 0))
        out = one.reference.run(given, params, dims)
        places = [tensor.data_ptr() for tensor in (*given["tensors"], *out)]
        assert len(set(places)) == len(places)
        assert {tensor.dtype for tensor in out} == {given["tensors"][0].dtype}


@pytest.mark.parametrize("s", [1, 5, 19])
def test_chunks_of_linear_attention_are_the_recurrence(s: int) -> None:
    """The chunked form gives what one step after the other gives, to rounding in float64."""
    from oplib.kernels.linear_attention.eager import chunked

    torch.manual_seed(s)
    q, k, v = (torch.randn(2, 3, s, n, dtype=torch.float64) for n in (4, 4, 5))
    decay = -torch.rand(3, 1, 1, dtype=torch.float64)
    state, outputs = torch.zeros(2, 3, 4, 5, dtype=torch.float64), []
    for t in range(s):
        state = state * decay.exp() + k[:, :, t, :, None] * v[:, :, t, None]
        outputs.append((q[:, :, t, None] @ state)[:, :, 0])
    y, last = chunked(q, k, v, decay, 8)
    torch.testing.assert_close(y, torch.stack(outputs, 2))
    torch.testing.assert_close(last, state)
