"""Bounds against hand sums, and the rule for a dtype that the GPU lacks."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oplib.errors import InvalidInputError
from oplib.op import Op
from oplib.symbols import parse_expr
from perfdb.speed_of_light import WIDER, find_rate, speed_of_light
from perfdb.systems import list_systems, load_system

H200 = load_system("h200_sxm")


def make_op(op: str, params: Mapping[str, object], dims: Mapping[str, str | int]) -> Op:
    return Op(
        op=op,
        name="test",
        count=1,
        params=params,  # type: ignore[arg-type]  # plain literals below
        dims={name: parse_expr(text) for name, text in dims.items()},
        weight_bytes=0,
        where=(),
        source="",
        rewrites=(),
    )


def gemm(dtype: str = "bfloat16", n: int = 6144, k: int = 4096) -> Op:
    return make_op("gemm", {"n": n, "k": k, "dtype": dtype}, {"m": "b*s"})


@pytest.mark.parametrize(
    ("m", "compute_ms", "memory_ms", "bound"),
    [
        # 2*m*6144*4096 FLOPs at 989.5 TFLOP/s; 2*(m*4096 + 6144*4096 + m*6144) bytes at 4.8 TB/s
        (1, 50_331_648 / 989.5e9, 50_352_128 / 4.8e9, "memory"),
        (4096, 206_158_430_208 / 989.5e9, 134_217_728 / 4.8e9, "compute"),
    ],
)
def test_gemm_on_h200(m: int, compute_ms: float, memory_ms: float, bound: str) -> None:
    found = speed_of_light(gemm(), H200, b=1, s=m, p=0)
    assert found.compute_ms == pytest.approx(compute_ms, rel=1e-12)
    assert found.memory_ms == pytest.approx(memory_ms, rel=1e-12)
    assert found.ms == max(found.compute_ms, found.memory_ms)
    assert (found.bound, found.ran_as) == (bound, "bfloat16")


@pytest.mark.parametrize(("m", "measured_us"), [(1, 15.4), (64, 15.3), (512, 35.4), (4096, 272)])
def test_bound_lies_below_the_measurement(m: int, measured_us: float) -> None:
    """bf16 GEMM n 6144, k 4096, CUDA graphs, one H200, 2026-11: 0.6 to 1 of the bound."""
    bound_us = speed_of_light(gemm(), H200, b=1, s=m, p=0).ms * 1e3
    assert 0.6 < bound_us / measured_us < 1


def test_pointwise_is_memory_bound() -> None:
    """No counted FLOPs: 8192 rows of 4096 bf16 read and written, 134,217,728 bytes at 4.8 TB/s."""
    op = make_op(
        "pointwise",
        {"functions": "mul", "dtype": "bfloat16"},
        {"read": "b*s*8192", "written": "b*s*8192"},
    )
    found = speed_of_light(op, H200, b=8, s=1024, p=0)
    assert found.compute_ms == 0
    assert found.ms == pytest.approx(134_217_728 / 4.8e9)
    assert found.bound == "memory"


@pytest.mark.parametrize(
    ("system", "dtype", "ran_as"),
    [
        ("h200_sxm", "fp8", "fp8"),
        ("h200_sxm", "nvfp4", "fp8"),
        ("b200_sxm", "nvfp4", "nvfp4"),
        ("a100_sxm", "fp8", "bfloat16"),
        ("a100_sxm", "nvfp4", "bfloat16"),
        ("a100_sxm", "int8", "int8"),
        ("l40s", "mxfp4", "fp8"),
    ],
)
def test_a_missing_rate_falls_to_the_next_wider(system: str, dtype: str, ran_as: str) -> None:
    assert find_rate(dtype, load_system(system)) == ran_as


def test_the_record_says_what_it_ran_as() -> None:
    """fp8 weights on an A100: half the bytes of bf16 remain, the rate is bf16's."""
    a100 = load_system("a100_sxm")
    fp8 = speed_of_light(gemm("fp8"), a100, b=1, s=4096, p=0)
    bf16 = speed_of_light(gemm("bfloat16"), a100, b=1, s=4096, p=0)
    assert (fp8.compute_dtype, fp8.ran_as) == ("fp8", "bfloat16")
    assert fp8.compute_ms == bf16.compute_ms
    assert fp8.memory_ms < bf16.memory_ms


def test_an_unknown_dtype_is_refused() -> None:
    """Raise rather than invent: no ratio stands in for a missing peak."""
    with pytest.raises(InvalidInputError, match="fp3"):
        find_rate("fp3", H200)


@pytest.mark.parametrize("name", list_systems())
def test_every_chain_ends_at_a_rate(name: str) -> None:
    """A wider rate is never faster, so the fall back stays a bound for that GPU."""
    system = load_system(name)
    for dtype in WIDER:
        ran_as = find_rate(dtype, system)
        if dtype in system.peak and WIDER[dtype] in system.peak:
            assert ran_as == dtype
            assert system.peak[WIDER[dtype]].base <= system.peak[dtype].base


@given(
    b=st.integers(1, 64),
    s=st.integers(1, 4096),
    dtype=st.sampled_from(["bfloat16", "float16", "fp8"]),
    name=st.sampled_from(list_systems()),
)
def test_bound_is_positive_and_grows(b: int, s: int, dtype: str, name: str) -> None:
    system = load_system(name)
    one = speed_of_light(gemm(dtype), system, b=b, s=s, p=0)
    more = speed_of_light(gemm(dtype), system, b=b, s=s + 1, p=0)
    assert 0 < one.ms <= more.ms
    assert one.ms == max(one.compute_ms, one.memory_ms)
