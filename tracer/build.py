"""Build the language model of a resolved config on the meta device: no weights, no memory, no foreign code.

Some text configs of multimodal models have no causal class of their own in transformers. For those the decoder
comes from the text backbone, or out of the whole model, and `CausalLM` adds the head that the outer class has.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    MODEL_MAPPING,
)

from oplib.errors import UnsupportedModelError
from tracer import boundaries

if TYPE_CHECKING:
    from tracer.resolve import ResolvedModel


class CausalLM(nn.Module):
    """A text backbone with its vocabulary head, called like any `*ForCausalLM` of transformers."""

    def __init__(self, model: nn.Module, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config
        self.model = model
        embedding = _input_embedding(model)
        vocab_size, hidden_size = embedding.weight.shape
        self.lm_head = nn.Linear(
            hidden_size, vocab_size, bias=False, device="meta", dtype=embedding.weight.dtype
        )
        if getattr(config, "tie_word_embeddings", False):
            self.lm_head.weight = embedding.weight

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding of the backbone."""
        return _input_embedding(self.model)

    def get_output_embeddings(self) -> nn.Module:
        """The vocabulary head."""
        return self.lm_head

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        past_key_values: Any = None,  # any cache class of transformers
        use_cache: bool | None = None,
        **kwargs: Any,  # what the backbone takes: masks, position ids, embeddings
    ) -> CausalLMOutputWithPast:
        """Logits of every position, and the cache."""
        outputs = self.model(
            input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache, **kwargs
        )
        logits = self.lm_head(outputs.last_hidden_state)
        return CausalLMOutputWithPast(logits=logits, past_key_values=outputs.past_key_values)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide log lines of transformers and torch, and warnings: what matters becomes a note or an error of ours."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def build_model(
    resolved: ResolvedModel,
    *,
    dtype: torch.dtype = torch.bfloat16,
    attn_implementation: str,
    experts_implementation: str,
) -> nn.Module:
    """The causal language model on meta, in eval mode; `resolved.config` stays untouched.

    `forward(input_ids, past_key_values=..., use_cache=True)` returns `.logits` and `.past_key_values`.
    To build a variation (fewer layers), pass a copy of `resolved` whose `config` has been replaced.
    """
    config = copy.deepcopy(resolved.config)
    options: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": attn_implementation,
    }
    # transformers refuses its own default by name where a model has no experts; left out, it applies where it can
    if experts_implementation != "grouped_mm":
        options["experts_implementation"] = experts_implementation
    with quiet_transformers(), torch.device("meta"):
        try:
            model = _build_or_eager(resolved, config, options)
        except UnsupportedModelError:
            raise
        except Exception as error:  # any failure of the model's own constructor is the answer
            raise UnsupportedModelError(
                f"{resolved.architecture} cannot be built from {resolved.source}: "
                f"{type(error).__name__}: {one_line(error)}.",
                hint="Check the config's sizes and names against the model's documentation.",
            ) from error
    _put_on_meta(model)
    boundaries.adopt(model)
    return model.eval()


def _put_on_meta(model: nn.Module) -> None:
    """Move parameters that a constructor makes on the CPU whatever the default device is."""
    moved: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and not parameter.is_meta:
                if parameter not in moved:
                    moved[parameter] = nn.Parameter(parameter.to("meta"))
                module._parameters[name] = moved[parameter]


def in_one_dtype(model: nn.Module) -> None:
    """Put every floating parameter into bfloat16, whatever the model's own code made it in."""
    for parameter in model.parameters():
        if parameter.dtype.is_floating_point:
            parameter.data = parameter.data.to(torch.bfloat16)


def _build_or_eager(
    resolved: ResolvedModel, config: PreTrainedConfig, options: dict[str, Any]
) -> nn.Module:
    """The model with the attention asked for, or as written where its classes know names of their own alone."""
    try:
        return _build(resolved, copy.deepcopy(config), options)
    except KeyError as error:
        if error.args != (options["attn_implementation"],):
            raise
        return _build(resolved, config, {**options, "attn_implementation": "eager"})


def causal_class_of(
    outer_config: PreTrainedConfig, config: PreTrainedConfig
) -> type[PreTrainedModel] | None:
    """transformers' causal class that is built from `config`, found by its type or by the outer one's.

    A multimodal model whose config has no text section, but the sizes of its decoder beside those of its towers, is
    its own causal class.
    """
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if type(outer_config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        found = MODEL_FOR_CAUSAL_LM_MAPPING[type(outer_config)]
        return found if found.config_class is type(config) else None
    if type(config) is type(outer_config) and getattr(config, "vocab_size", None):
        for mapping in (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING):
            found = mapping.get(type(config), None)
            if found is not None:
                return found
    return None


def _cut_towers(model: nn.Module, config: PreTrainedConfig) -> None:
    """Take out the modules that are built from a section of the config: towers of other modalities."""
    sections = tuple(config.sub_configs.values())
    for path, module in list(model.named_modules()):
        if path and isinstance(vars(module).get("config"), sections):
            parent, _, name = path.rpartition(".")
            with contextlib.suppress(AttributeError):  # inside a tower that is gone
                model.get_submodule(parent)._modules[name] = None


def _build(resolved: ResolvedModel, config: PreTrainedConfig, options: dict[str, Any]) -> nn.Module:
    if resolved.remote_code:
        return AutoModelForCausalLM.from_config(config, trust_remote_code=True, **options)
    causal_class = causal_class_of(resolved.outer_config, config)
    if causal_class is not None:
        model = causal_class._from_config(config, **options)
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            _cut_towers(model, config)
        return model
    if type(config) in MODEL_MAPPING:
        backbone = AutoModel.from_config(config, trust_remote_code=False, **options)
    else:
        backbone = _backbone_of_outer(resolved, config, options)
    return CausalLM(backbone, backbone.config)


def _backbone_of_outer(
    resolved: ResolvedModel, config: PreTrainedConfig, options: dict[str, Any]
) -> nn.Module:
    """The module of the whole multimodal model that was built from its text config."""
    outer_config = copy.deepcopy(resolved.outer_config)
    name = next((n for n, c in outer_config.sub_configs.items() if isinstance(config, c)), None)
    if name is None or type(outer_config) not in MODEL_MAPPING:
        raise UnsupportedModelError(
            f"transformers has no decoder class for the text config {config.model_type!r} of {resolved.source}.",
            hint="Only models with a causal language model or a text backbone can be traced.",
        )
    setattr(outer_config, name, config)
    outer = AutoModel.from_config(outer_config, trust_remote_code=False, **options)
    for module in outer.modules():
        from_text_config = isinstance(getattr(module, "config", None), type(config))
        if module is not outer and from_text_config and _find_input_embedding(module) is not None:
            return module
    raise UnsupportedModelError(
        f"{type(outer).__name__} has no text decoder built from {type(config).__name__}.",
        hint="Only models with a causal language model or a text backbone can be traced.",
    )


def _find_input_embedding(model: nn.Module) -> nn.Embedding | None:
    getter = getattr(model, "get_input_embeddings", None)
    try:
        embedding = getter() if getter is not None else None
    except NotImplementedError:
        return None
    return embedding if isinstance(embedding, nn.Embedding) else None


def _input_embedding(model: nn.Module) -> nn.Embedding:
    embedding = _find_input_embedding(model)
    if embedding is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no token embedding.",
            hint="Only models that read token ids can be traced.",
        )
    return embedding


def one_line(error: BaseException) -> str:
    """The error's words without line breaks, 300 characters at most."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
