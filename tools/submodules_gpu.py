"""Capture the sub-modules of a few models in CUDA graphs, and compare each replay with the eager output.

    python tools/submodules_gpu.py [NAMES] [--out FILE.jsonl]

Needs a GPU and no network: the configs are written here, with a few layers of usual widths. A line per part and phase:
captured or the reason why not, the largest difference to the eager output, microseconds of an eager call and of a
replay. Exit status 1 where a replay differs from the eager output. Each model runs in a process of its own, since a
broken capture can end one. `--device cpu` runs the same without graphs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402, TID253 - a checkout is not installed; nothing here runs without torch
from torch import nn  # noqa: E402, TID253

from tracer.submodules import Call, SubModule, submodules  # noqa: E402
from tracer.tensors import tensors  # noqa: E402

Json = dict[str, Any]  # Any: an object that becomes JSON
TIMES = 20  # calls that a median is of
AGAIN = 3  # exit status: the rest needs a fresh process
ROLES = ("layer", "attention", "moe", "mlp", "mixer")
WORKLOADS = (("context", 1, 512, 512), ("context", 1, 512, 0), ("generation", 8, 1, 1024))
_WIDE = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 4, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 8192,
}  # fmt: skip
_LATENT = {**_WIDE, "hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 16}
_NARROW = {**_LATENT, "num_key_value_heads": 4, "head_dim": 128}
_DELTA = {
    "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
}  # fmt: skip
CONFIGS: dict[str, Json] = {
    "llama": {"model_type": "llama", **_WIDE},
    "qwen3": {"model_type": "qwen3", **_NARROW},
    "gemma3_text": {
        "model_type": "gemma3_text", **_NARROW, "sliding_window": 512, "query_pre_attn_scalar": 128,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    },
    "gpt_oss": {
        "model_type": "gpt_oss", **_NARROW, "head_dim": 64, "num_local_experts": 32, "num_experts_per_tok": 4,
        "sliding_window": 128, "intermediate_size": 2048,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "qwen3_moe": {
        "model_type": "qwen3_moe", **_NARROW, "num_experts": 64, "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    "deepseek_v3": {
        "model_type": "deepseek_v3", **_LATENT, "num_key_value_heads": 16, "q_lora_rank": 1536,
        "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "n_routed_experts": 64, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "n_shared_experts": 1,
        "moe_intermediate_size": 1024, "first_k_dense_replace": 1,
    },
    "qwen3_next": {
        "model_type": "qwen3_next", **_NARROW, **_DELTA, "num_experts": 64, "num_experts_per_tok": 8,
        "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
    },
    "nemotron_h": {
        "model_type": "nemotron_h", **_NARROW, "hybrid_override_pattern": "M*-M", "mamba_num_heads": 64,
        "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8,
    },
    "mamba2": {
        "model_type": "mamba2", "hidden_size": 2560, "num_hidden_layers": 3, "vocab_size": 32000, "num_heads": 80,
        "head_dim": 64, "state_size": 128, "n_groups": 1,
    },
}  # fmt: skip


def reason(error: BaseException) -> str:
    """The error in one line, and the line of the model that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "transformers" in f.filename]
    text = " ".join(str(error).split())[:160]
    return f"{type(error).__name__}: {text}" + (f" ({places[-1]})" if places else "")


def microseconds(call: Callable[[], object], before: Callable[[], None]) -> float:
    """The median time of a call on the GPU, each after `before`, which is not timed."""
    taken = []
    for _ in range(TIMES):
        before()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        taken.append(start.elapsed_time(end) * 1000)
    return sorted(taken)[TIMES // 2]


def capture(module: nn.Module, call: Call) -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor]]:
    """A graph of the call, and the tensors that a replay writes; the cache is at p tokens before and after."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call.reset()
            call.run(module)
    torch.cuda.current_stream().wait_stream(side)
    call.reset()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = list(tensors(call.run(module)))
    call.reset()
    return graph, out


def check(part: SubModule, workload: tuple[str, int, int, int], device: str, attn: str) -> Json:
    """One part at one workload: `status` is captured, differs, eager (what stopped the capture) or failed."""
    phase, b, s, p = workload
    found: Json = {
        "part": part.name,
        "role": part.role,
        "phase": phase,
        "b": b,
        "s": s,
        "p": p,
        "attn": attn,
    }
    try:
        module = part.build(device, attn_implementation=attn)
        call = part.inputs(phase, b, s, p, device, attn_implementation=attn)
        eager = [t.clone() for t in tensors(call.run(module))]
        call.reset()
        found["finite"] = all(bool(t.isfinite().all()) for t in eager if t.is_floating_point())
        if device == "cpu":
            return {**found, "status": "eager", "why": "no GPU"}
        found["eager_us"] = microseconds(lambda: call.run(module), call.reset)
        call.reset()
    except Exception as error:  # noqa: BLE001 - becomes the status of this case
        return {**found, "status": "failed", "why": reason(error)}
    try:
        graph, out = capture(module, call)
        graph.replay()
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 - becomes the status of this case
        return {**found, "status": "eager", "why": reason(error)}
    pairs = list(zip(eager, out, strict=True))
    found["largest_difference"] = max((float((a - b).abs().max()) for a, b in pairs), default=0.0)
    same = all(torch.equal(a, b) for a, b in pairs)
    close = all(torch.allclose(a.float(), b.float(), rtol=2e-2, atol=2e-2) for a, b in pairs)
    found["replay_us"] = microseconds(graph.replay, call.reset)
    return {**found, "status": "captured" if close else "differs", "equal": same}


def healthy(device: str) -> bool:
    """Whether this process can go on after a capture that was broken off."""
    if device == "cpu":
        return True
    try:
        torch.cuda.synchronize()
        torch.randn(4, device=device).sum().item()
    except RuntimeError:
        return False
    return True


def run(name: str, device: str, skip: int) -> Iterator[Json]:
    """The checks of one config but for the first `skip`. Attention that sdpa cannot do runs as written."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(CONFIGS[name]), encoding="utf-8")
        parts = [part for part in submodules(folder) if part.role in ROLES]
        for part, workload in [(part, w) for part in parts for w in WORKLOADS][skip:]:
            found = check(part, workload, device, "sdpa")
            if found["status"] == "failed" and found["why"].startswith("UnsupportedModelError"):
                found = check(part, workload, device, "eager")
            yield {"model": name, **found}


def line(found: Json) -> str:
    """What is printed of a check."""
    times = [f"{k[:-3]} {found[k]:.1f} us" for k in ("eager_us", "replay_us") if k in found]
    if "largest_difference" in found:
        times.append("equal" if found["equal"] else f"differs by {found['largest_difference']:.3g}")
    workload = f"{found['phase']} b={found['b']} s={found['s']} p={found['p']} {found['attn']}"
    words = [found["status"], *times, found.get("why", "")]
    return (
        f"{found['model']:12} {found['role']:9} {found['part']:34} {workload:40} {' '.join(words)}"
    )


def main() -> int:
    """Run each config in a process of its own, or the one of `--inside` in this one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CONFIGS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--timeout", type=int, default=240, help="seconds for one config")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--skip", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        for found in run(options.names[0], options.device, options.skip):
            print(json.dumps(found), flush=True)
            if found["status"] in ("eager", "failed") and not healthy(options.device):
                return AGAIN
        return 0
    results: list[Json] = []
    for name in options.names or CONFIGS:
        start = time.monotonic()
        results += _outside(name, options)
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    if options.out:
        options.out.write_text("".join(json.dumps(r) + "\n" for r in results), encoding="utf-8")
    statuses = sorted(r["status"] for r in results)
    counts = {status: statuses.count(status) for status in statuses}
    print(counts)
    return 1 if counts.get("differs") or counts.get("failed") or not results else 0


def _outside(name: str, options: argparse.Namespace) -> Iterator[Json]:
    done, status = 0, AGAIN
    while status == AGAIN:
        command = [
            sys.executable,
            __file__,
            name,
            "--inside",
            "--device",
            options.device,
            "--skip",
            str(done),
        ]
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=options.timeout, check=False
            )
            out, status, words = ended.stdout, ended.returncode, ended.stderr
        except subprocess.TimeoutExpired as error:
            out, status, words = (error.stdout or b"").decode(), 124, f"over {options.timeout} s"
        for text in (text for text in out.splitlines() if text.startswith("{")):
            found = json.loads(text)
            done += 1
            print(line(found), flush=True)
            yield found
    if status:
        print(f"{name}: ended with {status}: {words.strip()[-600:]}", flush=True)
        yield {"model": name, "status": "failed", "why": words.strip()[-600:]}


if __name__ == "__main__":
    sys.exit(main())
