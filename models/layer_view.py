"""One distinct layer of a report, with the questions that a signature asks of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from oplib.registry import op_kinds

Json = dict[str, Any]  # Any: an object decoded from JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Mlp:
    """Two or three products with a narrower or wider middle: a dense MLP, or a shared expert."""

    block: str
    path: str
    width: int
    gated: bool
    bias: bool


class LayerView:
    """The ops of one distinct layer; paths of modules are relative to it.

    `hidden` is the width between its blocks; `complete` says that ops cover all of it.
    """

    def __init__(self, layer: Json, ops: Sequence[Json], hidden: int, *, complete: bool) -> None:
        self.id: str = layer["id"]
        self.hidden = hidden
        self.complete = complete
        self.indices: list[int] = layer["indices"]
        self.ops = ops
        mixers = [op for op in ops if _is_mixer(op)]
        self.mixer_blocks = {block for op in mixers for block in self.blocks(op)}

    @property
    def mixes(self) -> bool:
        """Whether tokens see each other: attention, a scan, or products of two activations."""
        written_out = any(not op["params"].get("shared_b") for op in self.of("bmm"))
        return bool(self.mixer_blocks) or written_out

    def paths(self, op: Json) -> list[str]:
        """Modules an op came from, inside this layer."""
        prefix = f"{self.id}." if self.id else ""
        return [w.removeprefix(prefix) for w in op["where"] if w.startswith(prefix)]

    def blocks(self, op: Json) -> set[str]:
        """Direct children of the layer that an op came from."""
        return {path.partition(".")[0] for path in self.paths(op)}

    def of(self, *kinds: str) -> list[Json]:
        """Ops of these kinds."""
        return [op for op in self.ops if op["op"] in kinds]

    def role(self, *roles: str) -> list[Json]:
        """Ops whose kind has one of these roles."""
        return [op for op in self.ops if role_of(op) in roles]

    def functions(self) -> dict[str, set[str]]:
        """What pointwise ops compute, by module."""
        found: dict[str, set[str]] = {}
        for op in self.of("pointwise"):
            for path in self.paths(op):
                found.setdefault(path, set()).update(op["params"]["functions"].split("+"))
        return found

    def owns_products(self, path: str) -> bool:
        """Whether a product, experts or a mixer lie at or below a module."""
        heavy = (p for op in self.ops if op["op"] != "pointwise" for p in self.paths(op))
        return any(p == path or p.startswith(f"{path}.") for p in heavy)

    def mlps(self) -> list[Mlp]:
        """Dense MLPs: gemms of one parent module whose widths fit, outside the mixers."""
        parents: dict[str, list[Json]] = {}
        for gemm in self.of("gemm"):
            paths = self.paths(gemm)
            if paths and paths[0].partition(".")[0] not in self.mixer_blocks:
                parents.setdefault(paths[0].rpartition(".")[0], []).append(gemm)
        found = (self._mlp(parent, gemms) for parent, gemms in parents.items())
        latent = {op["params"]["hidden_size"] for op in self.role("moe")} - {self.hidden}
        return [mlp for mlp in found if mlp and mlp.width not in latent]

    def _mlp(self, parent: str, gemms: list[Json]) -> Mlp | None:
        for position, down in enumerate(gemms):
            width, hidden = down["params"]["k"], down["params"]["n"]
            ups = [g for g in gemms[:position] if g["params"]["k"] == hidden]
            exact = [g for g in ups if g["params"]["n"] in (width, 2 * width)]
            if exact:
                return Mlp(
                    block=self.paths(down)[0].partition(".")[0],
                    path=parent,
                    width=width,
                    gated=sum(g["params"]["n"] for g in exact) >= 2 * width,
                    bias=any(g["params"].get("bias") for g in (down, *exact)),
                )
        return None


def role_of(op: Json) -> str:
    """The role of an op's kind; empty for a kind that this version does not have."""
    kind = op_kinds().get(op["op"])
    return kind.role if kind else ""


def _is_mixer(op: Json) -> bool:
    return role_of(op) in ("attention", "scan") or op["op"] == "causal_conv1d"
