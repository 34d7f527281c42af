"""Unknown steps, and the layers of supported models that they are put into.

Each step takes a tensor (..., rows, channels) and gives one that broadcasts against it; its primitive stands on the
line that carries its name as a comment. `inserted` adds a step to what a class of a model makes, or reads.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn import functional

Step = Callable[[torch.Tensor], torch.Tensor]

_LIBRARY = torch.library.Library("mutants", "DEF")
_LIBRARY.define("mix(Tensor x) -> Tensor")
torch.library.register_fake("mutants::mix", torch.empty_like, lib=_LIBRARY)


class Function(torch.autograd.Function):
    """A function of somebody's own, that hides its work from autograd."""

    @staticmethod
    def forward(_ctx, x):
        with torch.no_grad():
            return x.float().logcumsumexp(-2).to(x.dtype)  # autograd function


def _fourier(x):
    return torch.fft.rfft(x.float(), dim=-1).abs().mean(-1, keepdim=True)  # fourier transform


def _library(x):
    return torch.ops.mutants.mix(x)  # operator of a library


def _sorted(x):
    return x.sort(dim=-2).values  # sorted rows


def _gate(x):
    return x.cumsum(-2).sigmoid()  # cumulative gate


def _scan(x):
    return x.cummax(-2).values  # running maximum


def _einsum(x):
    return torch.einsum("...i,...i,...i->...", x, x, x)[..., None]  # einsum of three factors


def _contraction(x):
    return (x[..., :, None] * x[..., None, :]).sum(-1)  # contraction per element


def _spectrum(x):
    return torch.linalg.svdvals(x.float())[..., None, :1]  # singular values


def _routed(x):
    return x.gather(-1, x.argsort(-1))  # argsort routing


def _image(x):
    image = x.reshape(1, 1, -1, x.shape[-1])
    return functional.conv2d(image, x.new_ones(1, 1, 3, 3), padding=1).view(x.shape)  # convolution


def _rotations(x):
    z = torch.complex(x.float(), x.float())
    return torch.view_as_real(z.cumprod(-2))[..., 0]  # complex recurrence


def _through_a_view(x):
    out = torch.zeros_like(x)
    first = out[..., :1]
    first.copy_(x[..., :1].cumprod(-2))  # write through a view
    return out


def _into_a_buffer(x):
    out = torch.empty_like(x)
    first = out[..., :1]
    torch.cumsum(x, -2, out=out)  # write into a buffer
    return first


STEPS: dict[str, tuple[str, Step]] = {
    "fourier transform": ("aten.fft_rfft", _fourier),
    "autograd function": ("aten.logcumsumexp", Function.apply),
    "operator of a library": ("mutants.mix", _library),
    "sorted rows": ("aten.sort", _sorted),
    "cumulative gate": ("aten.cumsum", _gate),
    "running maximum": ("aten.cummax", _scan),
    "einsum of three factors": ("aten.einsum", _einsum),
    "contraction per element": ("aten.sum", _contraction),
    "singular values": ("aten.linalg_svdvals", _spectrum),
    "argsort routing": ("aten.argsort", _routed),
    "convolution": ("aten.conv2d", _image),
    "complex recurrence": ("aten.cumprod", _rotations),
    "write through a view": ("aten.cumprod", _through_a_view),
    "write into a buffer": ("aten.cumsum", _into_a_buffer),
}

#: Small model -> place -> class whose forward gets the step.
PLACES: dict[str, dict[str, str]] = {
    "llama": {
        "attention": "llama.LlamaAttention",
        "MLP": "llama.LlamaMLP",
        "norm": "llama.LlamaRMSNorm",
        "residual": "llama.LlamaDecoderLayer",
    },
    "qwen3_moe": {
        "router": "qwen3_moe.Qwen3MoeTopKRouter",
        "MoE": "qwen3_moe.Qwen3MoeSparseMoeBlock",
        "attention": "qwen3_moe.Qwen3MoeAttention",
    },
    "deepseek_v3": {
        "router": "deepseek_v3.DeepseekV3TopkRouter",
        "latent attention": "deepseek_v3.DeepseekV3Attention",
        "norm": "deepseek_v3.DeepseekV3RMSNorm",
    },
    "gemma3": {
        "attention": "gemma3.Gemma3Attention",
        "MLP": "gemma3.Gemma3MLP",
        "residual": "gemma3.Gemma3DecoderLayer",
    },
    "qwen3_next": {
        "linear attention": "qwen3_next.Qwen3NextGatedDeltaNet",
        "residual": "qwen3_next.Qwen3NextDecoderLayer",
        "router": "qwen3_next.Qwen3NextTopKRouter",
    },
    "nemotron_h": {
        "mixer": "nemotron_h.NemotronHMamba2Mixer",
        "MLP": "nemotron_h.NemotronHMLP",
        "residual": "nemotron_h.NemotronHBlock",
    },
    "jamba": {
        "mixer": "jamba.JambaMambaMixer",
        "MLP": "jamba.JambaMLP",
        "norm": "jamba.JambaRMSNorm",
    },
}


def cases() -> list[tuple[str, str, str]]:
    """Model, place and step: every step in every model, each time at another of the model's places."""
    return [
        (model, list(places)[(i + j) % len(places)], step)
        for i, (model, places) in enumerate(PLACES.items())
        for j, step in enumerate(STEPS)
    ]


def line_of(step: str) -> int:
    """The line of this file that a step's primitive stands on."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = [i for i, line in enumerate(lines, start=1) if line.endswith(f"# {step}")]
    return number


@contextmanager
def inserted(model: str, place: str, step: str) -> Iterator[None]:
    """Within the context, the class at a place of a model adds a step: to what a router reads, to what others make."""
    module, _, name = PLACES[model][place].partition(".")
    cls = getattr(importlib.import_module(f"transformers.models.{module}.modeling_{module}"), name)
    original, function = cls.forward, STEPS[step][1]

    @functools.wraps(original)
    def before(self, x, *args, **kwargs):
        return original(self, x + function(x).to(x.dtype), *args, **kwargs)

    @functools.wraps(original)
    def after(self, *args, **kwargs):
        made = original(self, *args, **kwargs)
        x = made[0] if isinstance(made, tuple) else made
        x = x + function(x).to(x.dtype)
        return (x, *made[1:]) if isinstance(made, tuple) else x

    cls.forward = before if place == "router" else after
    try:
        yield
    finally:
        cls.forward = original
