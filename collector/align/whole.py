"""A whole model, with fewer layers where it does not fit: prompt and decode step beside what price-model says."""

from __future__ import annotations

import gc
import inspect
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from collector.align import running
from collector.align.aligning import LOWERING, timed
from collector.align.binding import Names, bound
from collector.align.outcome import OpOutcome, Outcome
from collector.align.rested import RestedBench
from collector.align.settings import Settings
from collector.align.workloads import Workload
from collector.bench import bench_of
from collector.worker import one_line
from models.layout import Layout
from models.outcome import reports, run
from models.source import read_source
from models.workload import Workload as Batches
from oplib.command_line import Progress
from oplib.errors import InvalidInputError
from oplib.kernels.bound_attention import Preferred
from oplib.kernels.hardware import Hardware
from oplib.kernels.registry import resolve, slots
from oplib.kernels.variant import Variant
from oplib.op import Op, kind
from perfdb.database import PerfDatabase
from tracer import analysis
from tracer.build import build_model, quiet_transformers
from tracer.quantization import QuantScheme
from tracer.resolve import resolve as resolve_model
from tracer.submodule_inputs import Call, materialise

Json = dict[str, Any]  # Any: an object decoded from JSON
_NAME = "whole model"
_DEPTH, _QUANTISED = "num_hidden_layers", "quantization_config"


class Whole:
    """A model path at a depth, priced once and run at each workload."""

    def __init__(
        self, model: str, layers: int, settings: Settings, db: PerfDatabase, progress: Progress
    ) -> None:
        self._settings, self._db = settings, db
        with tempfile.TemporaryDirectory() as folder:
            self._depth = shortened(model, layers, Path(folder))
            progress(f"trace {settings.model}")
            traced = analysis.trace_model(folder)
        self._traced = replace(traced, scheme=QuantScheme())
        report = analysis.report(
            self._traced, analysis.Options(lowering=LOWERING, system=db.system.id)
        )
        self._stacks = (
            () if settings.one_graph else tuple({layer["stack"] for layer in report["layers"]})
        )
        self._source = read_source(settings.model, lambda _path: report)

    def planned(self, phase: str, workload: Workload) -> Json:
        """The row of a phase and workload, not run."""
        return self._told(self._outcome(phase, workload))

    def measured(self, phase: str, workload: Workload) -> Json:
        """The row of a phase and workload. What fails in it is told in the row."""
        outcome = self._outcome(phase, workload)
        try:
            outcome = self._measured(outcome, workload)
        except Exception as error:  # noqa: BLE001 - becomes the row's reason
            outcome = replace(outcome, failed=one_line(error))
        torch._dynamo.reset()  # compiled code keeps its model
        gc.collect()
        self._bench.release()
        return self._told(outcome)

    @cached_property
    def _bench(self) -> RestedBench:
        with self._settings.turn:
            return RestedBench(bench_of(self._settings.device, self._settings.turn.sharers))

    def _outcome(self, phase: str, workload: Workload) -> Outcome:
        predicted, ops = self.price(phase, workload)
        return Outcome(
            model=self._settings.model, submodule=_NAME, role="model", phase=phase, workload=str(workload),
            ops=ops, predicted=predicted,
        )  # fmt: skip

    def _told(self, outcome: Outcome) -> Json:
        return outcome.to_json() | {"layers": self._depth, "one_graph": not self._stacks}

    def price(self, phase: str, workload: Workload) -> tuple[float, tuple[OpOutcome, ...]]:
        """ms that price-model says: time to first token, or time of the first token after it; and of each op."""
        prompt = phase == "context"
        batches = Batches(
            batch=workload.b, isl=workload.s if prompt else workload.p, osl=2, prefix=workload.p if prompt else 0
        )  # fmt: skip
        found = next(iter(reports(run(self._source, self._db, [Layout()], batches)[0])))
        ops = tuple(
            OpOutcome(
                op=op["op"], name=op["name"], count=op["count"], variant="", predicted=op["ms"], origin=op["origin"],
                standalone=None, measured=None,
            )
            for op in found["ops"] if op["phase"] == phase
        )  # fmt: skip
        return float(found["ttft_ms" if prompt else "tpot_ms"]), ops

    def _measured(self, outcome: Outcome, workload: Workload) -> Outcome:
        bench = self._bench
        with self._bound(outcome.phase, workload, bench.hardware) as names:
            started = self._started(outcome.phase, workload, names, bench.hardware)
            outcome = replace(outcome, note=started.note, difference=started.difference)
            if not self._settings.time:
                return outcome
            return timed(outcome, started, bench, self._settings)

    def _started(
        self, phase: str, workload: Workload, names: Names, hardware: Hardware
    ) -> running.Running:
        device = torch.device(self._settings.device)
        model = build_model(
            self._traced.resolved,
            attn_implementation=names.attention,
            experts_implementation=names.experts,
        )
        with self._settings.turn, quiet_transformers(), torch.no_grad():
            model = materialise(model, "", device, self._settings.seed).eval()
            cache = DynamicCache(config=model.config)
            if workload.p:
                self._fill(model, cache, workload, hardware)
        return running.compiled(
            model,
            _call(model, cache, workload.b, workload.s if phase == "context" else 1, device),
            self._settings,
            self._stacks,
        )

    def _fill(
        self, model: nn.Module, cache: DynamicCache, workload: Workload, hardware: Hardware
    ) -> None:
        """Cached tokens by a prompt, with the attention of prompts."""
        device = next(model.parameters()).device
        with self._bound("context", Workload(b=workload.b, s=workload.p), hardware):
            _call(model, cache, workload.b, workload.p, device).run(model)

    @contextmanager
    def _bound(self, phase: str, workload: Workload, hardware: Hardware) -> Iterator[Names]:
        ops = self._source.op_list.phases[phase]
        variants = dict(_variants(ops, workload, self._settings.variants, hardware))
        unknown = any(op.kind.role == "attention" and op.op not in variants for op in ops)
        with bound(self._traced.model, variants, own_attention=unknown) as names:
            yield names


def shortened(model: str, layers: int, folder: Path) -> int:
    """Write the config of a model with so many layers (0: all of them) into a folder; its depth then."""
    raw = dict(resolve_model(model).raw)
    text: Any = raw.get("text_config")
    inner: Json = text if isinstance(text, dict) else raw
    depth = int(inner[_DEPTH])
    if layers > depth:
        raise InvalidInputError(f"--layers is {layers}, the model has {depth}.", "Give fewer.")
    kept = layers or depth
    for section in (raw, inner):
        section.pop(_QUANTISED, None)
        for name, value in section.items():
            if isinstance(value, list) and len(value) == depth:
                section[name] = value[:kept]
    inner[_DEPTH] = kept
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    return kept


def _call(model: nn.Module, cache: DynamicCache, b: int, s: int, device: torch.device) -> Call:
    """New tokens over what the cache holds; of a prompt the last token's logits, where the model can be asked so."""
    embedding: Any = model.get_input_embeddings  # Any: torch types attributes of modules as tensors
    vocabulary = embedding().num_embeddings
    generator = torch.Generator(device).manual_seed(0)
    ids = torch.randint(vocabulary, (b, s), generator=generator, device=device)
    kwargs: Json = {"input_ids": ids, "past_key_values": cache, "use_cache": True}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        kwargs["logits_to_keep"] = 1
    return Call(args=(), kwargs=kwargs, cache=cache)


def _variants(
    ops: tuple[Op, ...], workload: Workload, chosen: Mapping[str, str], hardware: Hardware
) -> Iterator[tuple[str, Variant]]:
    """What runs each slot that models call. Where its ops differ, attention is chosen call by call; of other slots the
    first op says which."""
    found: dict[str, dict[str, Variant]] = {}
    for op in ops:
        if op.op in slots() and slots()[op.op].bind is not None:
            dims = {name: int(size) for name, size in op.dims_at(**workload.sizes).items()}
            one = resolve(op.op, chosen.get(op.op), device=hardware, params=op.params, dims=dims)
            found.setdefault(op.op, {})[one.name] = one
    for slot, variants in found.items():
        attention = kind(slot).role == "attention"
        first = next(iter(variants.values()))
        yield slot, Preferred(slot) if attention and len(variants) > 1 else first
