"""Models that the plain way does not run: few positions, no cache, a cache elsewhere, questions for values, loops."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import sympy
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from oplib.errors import UnsupportedModelError
from oplib.symbols import B, P, S, evaluate, parse_expr
from tests.tracer import small_models, toy
from tracer import analysis, passes, recorder
from tracer import trace as trace_module
from tracer.cache import run
from tracer.carried import Carried
from tracer.passes import Setting, alone, setting_of
from tracer.sizes import (
    FEWEST_POSITIONS,
    LONG,
    LONG_ODD,
    SHORT,
    UNLIMITED,
    ConcreteSizes,
    within,
)
from tracer.trace import capture, trace

_WIDTHS = {
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "vocab_size": 173,
}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "table of positions": {"model_type": "bert-generation", **_WIDTHS, "is_decoder": True,
                           "max_position_embeddings": 300},
    "buffer of positions": {"model_type": "bert", **_WIDTHS, "is_decoder": True, "max_position_embeddings": 77,
                            "architectures": ["BertLMHeadModel"]},
    "mask of positions": {"model_type": "gpt_neo", **_SPECIAL, "hidden_size": 48, "num_layers": 4, "num_heads": 6,
                          "attention_types": [[["global", "local"], 2]], "vocab_size": 173, "window_size": 32,
                          "max_position_embeddings": 256},
    "no cache": {"model_type": "openai-gpt", **_SPECIAL, "n_embd": 48, "n_layer": 3, "n_head": 6, "vocab_size": 173,
                 "n_positions": 200},
    "values": {"model_type": "roformer", **_WIDTHS, "is_decoder": True, "embedding_size": 48},
    "codebooks": {"model_type": "musicgen_melody", "architectures": ["MusicgenMelodyForCausalLM"],
                  "text_encoder": {"model_type": "t5"}, "audio_encoder": {"model_type": "encodec"},
                  "decoder": {"hidden_size": 48, "num_hidden_layers": 3, "ffn_dim": 112, "num_attention_heads": 6,
                              "vocab_size": 173, "num_codebooks": 4, **_SPECIAL}},
    "one token at a time": {"model_type": "cpmant", "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6,
                            "dim_head": 8, "dim_ff": 112, "vocab_size": 173, "prompt_length": 5, "prompt_types": 2},
}  # fmt: skip
LIMITS = {
    "table of positions": 300,
    "buffer of positions": 77,
    "mask of positions": 256,
    "no cache": 200,
}


@pytest.fixture(scope="module")
def reports():
    """The report as written of each config, made once."""
    made: dict[str, dict] = {}

    def report(name: str) -> dict:
        if name not in made:
            folder = small_models.write(CONFIGS[name])
            made[name] = analysis.analyse(folder, analysis.Options(lowering="eager"))
        return made[name]

    return report


@pytest.mark.parametrize("name", ["table of positions", "codebooks",
                                  *(pytest.param(n, marks=pytest.mark.slow) for n in sorted(CONFIGS)
                                    if n not in ("table of positions", "codebooks"))])  # fmt: skip
def test_both_phases_are_exact(reports, name):
    """Nothing is lost or counted twice, however the model had to be run."""
    found = reports(name)
    assert found["conservation"]["exact"], found["conservation"]
    assert not found["full_depth"]


@pytest.mark.parametrize("name", ["no cache", "table of positions"])
def test_a_limit_is_found_and_said(reports, name):
    """The traced lengths lie within the model's positions, and a note gives their number."""
    found = reports(name)
    assert f"the model runs over {LIMITS[name]} positions at most" in found["notes"]
    for at in found["traced_at"].values():
        assert at["p"] + at["s"] <= LIMITS[name]


def rows(found: dict, phase: str, name: str) -> set:
    """The numbers of rows of ops whose name ends so."""
    ops = found["op_list"]["phases"][phase]
    return {sympy.expand(parse_expr(op["dims"]["m"])) for op in ops if op["name"].endswith(name)}


def test_without_a_cache_a_pass_reads_all_tokens(reports):
    """Rows of a product: all tokens in both phases, and no byte is kept."""
    found = reports("no cache")
    assert found["kv_cache"]["expression"] == 0
    assert rows(found, "context", "c_fc") == {sympy.expand(B * (P + S))}
    assert rows(found, "generation", "c_fc") == {sympy.expand(B * (P + 1))}
    assert any("keeps no cache" in note for note in found["notes"])


def test_codebooks_multiply_the_ids_and_not_the_tokens(reports):
    """Four ids per token are summed before the first layer."""
    found = reports("codebooks")
    assert rows(found, "context", "fc1") == {B * S}
    lookups = [o for o in found["op_list"]["phases"]["context"] if o["op"] == "embedding"]
    assert sum(o["count"] for o in lookups) == 4


FORMS = (
    B,
    S,
    P,
    B * S,
    B * P,
    P + S,
    B * (P + S),
    12 * B * S,
    P + 1,
    B * (P + 1),
    64 * B * (P + S),
)


@pytest.mark.parametrize(
    "positions", [FEWEST_POSITIONS, 40, 77, 160, 512, 514, 1024, 2048, 100_000]
)
def test_short_workloads_tell_sizes_apart(positions):
    """Every form comes back from its two values, the lengths fit, and a step's sizes are told from a prompt's."""
    workloads = within(positions)
    assert all(w["p"] + w["s"] <= positions for w in (workloads.long, workloads.short))
    assert max(p for _, p in workloads.points) < positions
    for form in FORMS:
        sizes = ConcreteSizes(workloads.long, workloads.short)
        first, second = (evaluate(form, **w) for w in (workloads.long, workloads.short))
        sizes.add(first, second)
        for at in (workloads.long, workloads.short, {"b": 2, "s": 6, "p": 14}):
            assert evaluate(sizes.expr(first), **at) == evaluate(form, **at), (form, at)


_PARTS = (
    sympy.floor((P + S) / 4),
    sympy.ceiling((P + S) / 16),
    sympy.floor((P + S) / 128),
    sympy.floor(P / 4) + sympy.floor(S / 4),
    B * sympy.floor((P + S) / 8),
)


@pytest.mark.parametrize("form", _PARTS)
@pytest.mark.parametrize("phase", ["context", "generation"])
def test_odd_lengths_tell_which_length_a_part_is_of(form, phase):
    """Whole blocks leave it open; with lengths that are none the form comes back, at every length."""
    form = form.subs(S, 1) if phase == "generation" else form
    workloads = [{**w, "s": 1} if phase == "generation" else w for w in (LONG, SHORT, LONG_ODD)]
    sizes = ConcreteSizes(*workloads)
    size, *others = (evaluate(form, **w) for w in workloads)
    sizes.add(size, *others)
    assert sizes.has_parts
    for s in (1,) if phase == "generation" else (1, 2, 3, 77, 1001):
        for p in (*range(17), 130, 345):
            assert evaluate(sizes.expr(size), b=3, s=s, p=p) == evaluate(form, b=3, s=s, p=p)


def test_too_few_positions_are_refused():
    """Below that, sizes cannot be told apart: an error with the number."""
    with pytest.raises(UnsupportedModelError, match="over 5 positions at most"):
        within(5)


class Stateful(nn.Module):
    """A running mean in an attribute of the module, which its output does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_hidden_layers=None)
        self.embed = nn.Embedding(50, 24, device="meta", dtype=torch.bfloat16)
        self.mean = None

    def forward(self, input_ids, **_options):
        x = self.embed(input_ids)
        before = 0 if self.mean is None else self.mean
        self.mean = before + x.sum(1)
        return Output(logits=x + self.mean[:, None])


class Output(dict):
    """An output of transformers: a mapping with attributes."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def test_state_in_attributes_is_a_cache():
    """It is found, sized, handed on, an input of the graph, and gone from the module afterwards."""
    model = Stateful().eval()
    found = capture(model)
    assert [leaf.path for leaf in found.leaves] == [("held", "mean")]
    assert found.leaves[0].shape == (B, 24)
    assert model.mean is None
    graph = trace(model, found, "generation").graph
    assert [n.target for n in graph.nodes if n.op == "placeholder"] == ["input_ids", "cache_0"]
    _, carried = run(model, torch.zeros(3, 4, dtype=torch.long, device="meta"))
    assert isinstance(carried, Carried)
    assert carried.held["mean"].shape == (3, 24)


class Settling(nn.Module):
    """Its first pass puts another module in the place of its part, and fails on tensors that answer no questions."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_hidden_layers=None)
        self.embed = nn.Embedding(50, 24, device="meta", dtype=torch.bfloat16)
        self.part, self.kind, self.table = nn.ReLU(), "first", None

    def forward(self, input_ids, past_key_values=None, **_options):
        x = self.embed(input_ids)
        if self.kind == "first":
            self.kind, self.part = "settled", nn.Tanh()
            torch.rand(3)
        self.table = x.sum(1)
        if not isinstance(x, FakeTensor):
            raise RuntimeError("no answer")
        return SimpleNamespace(logits=self.part(x), past_key_values=past_key_values)


def test_modules_that_a_pass_replaces_stay_replaced():
    """With the setting that goes with them, so that the graph is that of a later pass; tensors do not stay."""
    model = Settling().eval()
    with pytest.raises(RuntimeError, match="no answer"), alone(model):
        Setting().fill(model, 2, 3)
    assert (type(model.part), model.kind, model.table) == (nn.ReLU, "first", None)
    found = capture(model)
    assert found.replaced == ("Tanh in place of ReLU",)
    assert (type(model.part), model.kind, model.table) == (nn.Tanh, "settled", None)
    graph = trace(model, found, "context").graph
    targets = [str(n.target) for n in graph.nodes if n.op == "call_function"]
    assert "aten.tanh.default" in targets
    assert not any("rand" in target for target in targets)


def loop(_self, x):
    """One step per token."""
    state, out = x[:, 0], []
    for t in range(x.shape[1]):
        state = state * 0.5 + x[:, t]
        out.append(state)
    return torch.stack(out, 1)


def test_a_loop_over_tokens_is_refused_with_its_line():
    """Long workloads would never end: refused from two short passes, with the line that loops."""
    with pytest.raises(
        UnsupportedModelError, match=r"test_passes\.py:\d+: it loops in Python, over the tokens"
    ):
        capture(toy.Toy(loop).eval())


def each_sequence(_self, x):
    """A call for each sequence of the batch."""
    return torch.stack([row * 2 for row in x])


def test_a_loop_as_long_as_the_config_says_is_refused_with_its_line(monkeypatch):
    """A count of two thousand millions in a config ends in an error at once, not in hours."""

    def body(_m, x):
        for _ in range(2**31):
            x = x + 1
        return x

    for module in (passes, recorder):
        monkeypatch.setattr(module, "MOST_CALLS", 500)
    with pytest.raises(UnsupportedModelError, match=r"500 operator calls.* at test_passes\.py:\d+"):
        capture(toy.Toy(body).eval())


def test_a_loop_over_the_batch_is_refused_with_its_line():
    """The number of calls would be an expression of b, which a graph has no place for."""
    model = toy.Toy(each_sequence).eval()
    with pytest.raises(
        UnsupportedModelError, match=r"loops over the sequences .* at test_passes\.py:\d+"
    ):
        trace(model, capture(model), "context")


_PART = {
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 112,
    "hidden_size": 48,
}
BYTES = {
    "model_type": "blt", "architectures": ["BltForCausalLM"], "encoder_hash_byte_group_vocab": 50,
    "patcher_config": _PART, "global_config": {**_PART, "hidden_size": 96},
    "encoder_config": {**_PART, "hidden_size_global": 96}, "decoder_config": {**_PART, "hidden_size_global": 96},
}  # fmt: skip


@pytest.mark.slow
def test_a_model_that_refuses_a_cache_is_asked_for_none():
    """Every pass reads all tokens again, sums are exact, and attention of patches to bytes is shown, not priced."""
    folder = small_models.write({**BYTES, "patch_in_forward": False})
    found = analysis.analyse(folder, analysis.Options(lowering="eager"))
    assert found["conservation"]["exact"]
    assert found["kv_cache"]["expression"] == 0
    assert any("keeps no cache" in note for note in found["notes"])
    assert {e["primitive"] for e in found["unsupported"]} == {
        "trace_model.attention",
        "aten.scatter_reduce",
    }


def test_lengths_that_the_data_decides_are_one_error():
    """Patches begin where entropies are above a threshold: the line that selects them is named."""
    with pytest.raises(
        UnsupportedModelError, match=r"depends on the values of its data, at modeling_blt\.py:\d+"
    ):
        analysis.trace_model(small_models.write(BYTES))


def question(_self, x):
    """A branch that values decide, and a check of all values."""
    if not bool((x < 9).all()):
        raise ValueError("too large")
    return x * 2 if x.sum().item() > 1 else x + 1


def test_questions_for_values_are_answered_and_told():
    """Zero, and true for a check of all; the lines are written down; nothing is recorded of the asking."""
    model = toy.Toy(question).eval()
    assert setting_of(model).tensors == "answered"
    found = trace(model, capture(model), "context")
    targets = [str(n.target) for n in found.graph.nodes if n.op == "call_function"]
    assert "aten.add.Tensor" in targets
    assert "aten.mul.Tensor" not in targets
    assert not any("local_scalar" in t or "is_nonzero" in t for t in targets)
    assert len(found.asked) == 2
    assert all(line.startswith("test_passes.py:") for line in found.asked)
    assert sorted(line.split()[1] for line in found.asked) == ["0.0", "True"]


def test_plain_models_run_plainly():
    """No setting of its own where none is needed."""
    traced = small_models.traced("llama")
    assert traced.capture.setting.tensors == "meta"
    assert traced.capture.workloads is UNLIMITED
    assert not traced.traces["context"].asked


def test_a_mistake_of_ours_is_no_reason_to_do_without_a_cache(monkeypatch):
    """Where the tracer itself fails over a cache, the answer is an error, not the list of a model without one."""
    monkeypatch.delattr(
        trace_module, "_maker"
    )  # looked up for what a cache holds, and for nothing else
    with pytest.raises(UnsupportedModelError, match="cannot be traced: NameError"):
        analysis.trace_model(small_models.folder("llama"))
