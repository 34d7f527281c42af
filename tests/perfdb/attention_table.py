"""A table of prompts that no GPU measured: a kernel that is ten times as slow where the mask is no plain causal one."""

from collections.abc import Callable
from pathlib import Path

import numpy

from oplib.op import kind
from perfdb.speed_of_light import bound_ms
from perfdb.systems import load_system

SYSTEM = "h200_sxm"
WINDOW = 1024
HEADS = ((4, 1), (8, 2), (16, 4), (32, 8))
SIZES = {
    "b": (1, 2, 4, 8),
    "s": (128, 256, 512, 1000, 1024, 2048, 3000, 4096, 8192),
    "p": (0, 1024, 4096),
}
STEP = 10.0


def params(heads: int, kv_heads: int, window: int) -> dict[str, object]:
    """Complete parameters of a layer with a window, or without one: 0."""
    return kind("context_attention").complete(
        {
            "num_heads": heads,
            "num_kv_heads": kv_heads,
            "head_dim": 128,
            "v_head_dim": 128,
            "window": window,
            "dtype": "bfloat16",
            "kv_dtype": "bfloat16",
        }
    )


def milliseconds(heads: int, kv_heads: int, window: int, step: float, **dims: int) -> float:
    """The law: 1.5 times bound and launch, a little more for short prompts; `step` times that where keys are hidden or
    cached, and the more so the longer the prompt."""
    whole = params(heads, kv_heads, window)
    bound = float(bound_ms(kind("context_attention"), whole, dims, load_system(SYSTEM)))
    slower = 1.5 + 20 / dims["s"]
    if window and (dims["p"] or dims["s"] > window):
        slower *= step * (dims["s"] / window) ** (0.3 * (step > 1))
    return (bound + 0.004) * slower


def write(folder: Path, *, window: int = WINDOW, step: float = STEP, seed: int = 0) -> Path:
    """`<folder>/h200_sxm/attention/toy/1.0/context_attention_perf.txt`; returns it. Noise of one percent."""
    random = numpy.random.default_rng(seed)
    form = kind("context_attention").table_format
    spelled: Callable[[str], str] = lambda name: form.columns.get(name, name)  # noqa: E731
    lines = []
    for heads, kv_heads in HEADS:
        for b in SIZES["b"]:
            for s in SIZES["s"]:
                for p in SIZES["p"]:
                    time = milliseconds(heads, kv_heads, window, step, b=b, s=s, p=p)
                    row = {
                        "framework": "Toy",
                        "version": "1.0",
                        "device": "H200",
                        "op_name": "context_attention",
                        "kernel_source": "toy_kernel",
                        **{spelled(k): v for k, v in params(heads, kv_heads, window).items()},
                        **{spelled(name): size for name, size in (("b", b), ("s", s), ("p", p))},
                        "latency": f"{time * numpy.exp(0.01 * random.standard_normal()):.9f}",
                    }
                    lines.append(row)
    path = folder / SYSTEM / "attention" / "toy" / "1.0" / f"{form.stem}.txt"
    path.parent.mkdir(parents=True)
    text = [",".join(lines[0]), *(",".join(map(str, row.values())) for row in lines)]
    path.write_text("\n".join(text) + "\n")
    return path
