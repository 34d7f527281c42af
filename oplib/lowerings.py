"""Lowerings by name: how far the ops of a list are from the model's code. `tracer.rewrite` has the rewrites of each."""

from __future__ import annotations

LOWERINGS = {
    "eager": "as written: the ops of the model's own code; conservation is proved here",
    "torch": "what a compiled PyTorch run executes",
    "serving": "what TensorRT-LLM, vLLM and SGLang execute and what the published tables measure",
}
USUAL = "serving"  # where nothing asks for another
