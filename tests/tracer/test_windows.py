"""Windows of any length: what the cache keeps is what its own layers keep, and attention works on that."""

from __future__ import annotations

import functools

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from oplib.symbols import evaluate, parse_expr
from tests.tracer import small_models
from tests.tracer.small_models import SMALL
from tracer import analysis
from tracer.build import quiet_transformers
from tracer.cache import leaves

WIDTHS = (1, 2, 3, 4, 5, 6, 13, 640, 641, 642, 2**20)
QUICK = {1, 2, 13, 2**20}
#: A class with windows, and classes that pass none to attention but whose cache is cut for a stray entry all the same.
FAMILIES = {"gemma3": 1, "llama": 0, "deepseek_v3": 0}

#: The experts of transformers that run on sizes alone.
EXPERTS = {"deepseek_v3": {"experts_implementation": "batched_mm"}}


def config(name: str, width: int) -> dict:
    """A small model of the family with this window."""
    return {**SMALL[name], "sliding_window": width}


@functools.cache
def report(name: str, width: int) -> dict:
    """Its report, as written."""
    path = small_models.write(config(name, width))
    return analysis.analyse(path, analysis.Options(lowering="eager"))


CASES = [
    pytest.param(n, w, marks=[] if w in QUICK else pytest.mark.slow)
    for n in FAMILIES
    for w in WIDTHS
]


@pytest.mark.parametrize(("name", "width"), CASES)
def test_a_window_of_any_length_is_exact(name, width):
    """Nothing is unknown, and torch's counter agrees over a cache that is cut."""
    found = report(name, width)
    assert found["situation"] == "S1-or-S2"
    assert found["conservation"]["exact"]


@pytest.mark.parametrize(("name", "width"), CASES)
def test_the_cache_is_that_of_a_real_pass(name, width):
    """Bytes after fresh tokens, fewer and more than the window, are those of the cache that transformers keeps."""
    built = AutoConfig.for_model(**config(name, width))
    with quiet_transformers(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            built, dtype=torch.bfloat16, **EXPERTS.get(name, {})
        )
    size = parse_expr(report(name, width)["kv_cache"]["expression"])
    for b, tokens in ((2, 1), (1, 5), (3, 700)):
        ids = torch.zeros(b, tokens, dtype=torch.long, device="meta")
        with torch.no_grad(), quiet_transformers():
            cache = model(input_ids=ids, use_cache=True).past_key_values
        kept = [t for path, t in leaves(cache) if path[-1] in ("keys", "values")]
        assert evaluate(size, b=b, p=tokens) == sum(t.nbytes for t in kept)


def test_a_stray_window_limits_the_cache_and_not_the_view():
    """A class that knows no window sees the cached tokens that are left, and all new ones."""
    op = next(
        o
        for o in report("llama", 13)["op_list"]["phases"]["context"]
        if o["op"] == "context_attention"
    )
    assert (op["params"]["cache_limit"], op["params"]["window"]) == (12, 0)
    work = [evaluate(parse_expr(str(op["flops"])), b=1, s=10, p=p) for p in (0, 12, 500)]
    assert work[1] == work[2] == work[0] * (12 + 10) // 10


#: Its cache keeps what the first pass wrote, and a window of what later ones write.
REFERENCE = {
    "model_type": "unlimited_ocr",
    "architectures": ["UnlimitedOcrForConditionalGeneration"],
    "text_config": {
        "hidden_size": 48,
        "intermediate_size": 112,
        "moe_intermediate_size": 26,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "n_routed_experts": 7,
        "num_experts_per_tok": 3,
        "vocab_size": 173,
        "sliding_window": 13,
    },
}


@pytest.mark.skipif(
    REFERENCE["model_type"] not in CONFIG_MAPPING, reason="not in this version of transformers"
)
def test_a_window_of_later_passes_leaves_the_first_whole():
    """Cached tokens are those of one pass, and a note says so: attention and cache grow with all of them."""
    found = analysis.analyse(small_models.write(REFERENCE), analysis.Options(lowering="eager"))
    assert found["conservation"]["exact"], found["conservation"]
    assert any("taken for a prompt of one pass" in note for note in found["notes"])
    assert found["kv_cache"]["bytes_per_token"] == 3 * 2 * 6 * 8 * 2
    op = next(
        o for o in found["op_list"]["phases"]["generation"] if o["op"] == "generation_attention"
    )
    head, queries = 8, 6
    assert evaluate(parse_expr(str(op["flops"])), b=2, s=1, p=500) == 4 * 2 * queries * head * 501


def test_a_plain_window_is_no_matter_of_passes():
    """What two passes leave is what one leaves."""
    assert not any("of one pass" in note for note in report("gemma3", 13)["notes"])
