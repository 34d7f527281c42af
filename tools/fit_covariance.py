"""Fit a covariance of an op kind to tables and print its model, an entry of perfdb/covariances.toml.

    python tools/fit_covariance.py gemm h200_sxm TABLE.parquet [TABLE ...] --source "h200_sxm vllm 0.24.0"
        --features m n k "align m"

Maximum likelihood of single rows and of whole sites left out, each from its neighbours, which are chosen anew every few
batches under the covariance as it is then. Noise is Student's t, because tables have outliers, and wider above than
below where rows are slower than others more often than faster.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch

from oplib.kind import OpKind
from oplib.op import kind
from perfdb.covariances import FREEDOM, SKEW, models_of
from perfdb.efficiency import Group, groups_of
from perfdb.features import features_of
from perfdb.folds import FOLDS
from perfdb.kriging import Component, Covariance, Field
from perfdb.systems import load_system
from perfdb.tables import read_table

ROWS, NEIGHBOURS, DRAWS, REWEIGHTINGS = 160, 32, 4, 5
#: Where the search starts: deviation, length along dims, over parameters, and along derived features. Smooth over all;
#: steps along a dim that near and far shapes share; what is a row's own; what is a shape's own; a rough rest.
START = (
    (0.4, 8.0, 8.0, 8.0),
    (0.1, 0.5, 2.0, 4.0),
    (0.1, 0.5, 8.0, 4.0),
    (0.1, 0.5, 0.5, 4.0),
    (0.1, 4.0, 0.7, 4.0),
    (0.05, 2.0, 2.0, 4.0),
)
LONGEST = 999.0  # octaves; longer than any table is wide


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows `asked` [a] of `points` [n, f] and `values` [n], and the rows `near` [a, j] that each is foretold from."""

    points: torch.Tensor
    values: torch.Tensor
    asked: numpy.ndarray
    near: numpy.ndarray


class Parameters(torch.nn.Module):
    """A covariance whose logarithms can be learned."""

    def __init__(
        self, op_kind: OpKind, features: Sequence[str], start: Covariance | None = None
    ) -> None:
        super().__init__()
        deviations, dims, shapes, derived = torch.tensor(START).log().T
        columns = [
            dims if name in op_kind.dims else shapes if name in op_kind.coordinates else derived
            for name in features
        ]
        self.deviations = torch.nn.Parameter(deviations.clone())
        self.lengths = torch.nn.Parameter(torch.stack(columns, dim=1))
        self.noise = torch.nn.Parameter(torch.tensor(0.015).log())
        if start is not None:
            parts = start.components
            self.deviations.data = torch.tensor([part.deviation for part in parts]).log()
            self.lengths.data = torch.tensor([part.lengths for part in parts]).log()
            self.noise.data = torch.tensor(start.noise).log()

    def covariance(self) -> Covariance:
        deviations, lengths = self.deviations.exp().tolist(), self.lengths.exp().tolist()
        return Covariance(
            components=tuple(
                Component(deviation=deviations[i], lengths=tuple(lengths[i]), smooth=i == 0)
                for i in range(len(START))
            ),
            noise=self.noise.exp().item(),
            skew=SKEW,
            freedom=FREEDOM,
        )

    def sides(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Variance of the noise above the field, and below."""
        return (2 * self.noise).exp() * SKEW**2, (2 * self.noise).exp() / SKEW**2

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """As `Covariance.__call__`."""
        apart = (first.unsqueeze(-2) - second.unsqueeze(-3)).abs()
        weights, variances = (-self.lengths).exp(), (2 * self.deviations).exp()
        far = (3 * (apart * weights[0]).square().sum(-1) + 1e-12).sqrt()
        smooth = variances[0] * (1 + far) * (-far).exp()
        rough: torch.Tensor = (variances[1:] * (-(apart @ weights[1:].T)).exp()).sum(-1)
        return smooth + rough


def loss(model: Parameters, batch: Batch) -> torch.Tensor:
    """Negative log likelihood of the rows asked, up to a constant."""
    asked, near, count = batch.asked, batch.near, batch.near.shape[1]
    query, known = batch.points[asked][:, None, :], batch.points[near]
    system = torch.ones(len(asked), count + 1, count + 1, dtype=torch.float64)
    system[:, :count, :count] = model(known, known).double()
    system[:, count, count] = 0.0
    noise = reweighted(model, system.detach(), batch.values[near])
    system = system + torch.nn.functional.pad(torch.diag_embed(noise), (0, 1, 0, 1))
    right = torch.ones(len(asked), count + 1, dtype=torch.float64)
    right[:, :count] = model(query, known)[:, 0, :].double()
    weights = torch.linalg.solve(system, right)
    mean = (weights[:, :count] * batch.values[near]).sum(1)
    variance = ((2 * model.deviations).exp().sum() - (weights * right).sum(1)).clamp_min(1e-10)
    above, below = ((variance + side).sqrt() for side in model.sides())
    off = batch.values[asked] - mean
    z = off / torch.where(off > 0, above, below)
    tails = (FREEDOM + 1) / 2 * torch.log1p(z.square() / FREEDOM)
    return (((above + below) / 2).log() + tails).mean()


def reweighted(model: Parameters, system: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Variances of the noise of `values` [a, j], as `perfdb.kriging` finds them; `system` has no noise yet."""
    above, below = model.sides()
    right = torch.nn.functional.pad(values, (0, 1))
    noise = (2 * model.noise).exp().double().expand(values.shape)
    for _ in range(REWEIGHTINGS):
        with torch.no_grad():
            whole = system + torch.nn.functional.pad(torch.diag_embed(noise), (0, 1, 0, 1))
            off = noise * torch.linalg.solve(whole, right)[:, :-1]
            side = torch.where(off > 0, above, below)
            share = (FREEDOM + off.square() / side) / (FREEDOM + 1)
        noise = torch.where(off > 0, above, below) * share
    return noise


def batches(
    groups: Sequence[Group], features: Sequence[str], model: Parameters, seed: int
) -> Iterator[Batch]:
    """Without end: rows of groups drawn by their number of rows, with single rows and whole sites left out."""
    random = numpy.random.default_rng(seed)
    rows = numpy.array([len(g.ratios) for g in groups], dtype=float)
    coordinates = groups[0].rows.kind.coordinates
    places = [features_of(group.points, features, coordinates) for group in groups]
    while True:
        drawn = []
        for i in random.choice(len(groups), DRAWS, p=rows / rows.sum()):
            group, covariance = groups[i], model.covariance()
            field = Field(places[i], group.ratios, covariance, neighbours=NEIGHBOURS)
            points = torch.tensor(places[i], dtype=torch.float32)
            for name in ("point", "site"):
                fold = FOLDS[name](group)
                if len(numpy.unique(fold.hidden)) < 3:
                    fold = FOLDS["point"](group)
                many = min(2 * ROWS, len(fold.asked))
                asked = random.choice(fold.asked, many, replace=False)
                near = field.told_by(asked, fold.hidden)
                values = torch.tensor(group.ratios)
                for part in numpy.array_split(numpy.arange(many), 2):
                    drawn.append(
                        Batch(points=points, values=values, asked=asked[part], near=near[part])
                    )
        yield from (drawn[i] for i in random.permutation(len(drawn)))


def fit(
    groups: Sequence[Group],
    features: Sequence[str],
    *,
    start: Covariance | None,
    steps: int,
    seed: int,
) -> Covariance:
    """The covariance after `steps` batches; from a good start in small steps."""
    model = Parameters(groups[0].rows.kind, features, start)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.06 if start is None else 0.02)
    for step, batch in zip(range(steps), batches(groups, features, model, seed), strict=False):
        if step == steps * 2 // 3:
            optimiser.param_groups[0]["lr"] /= 3
        value = loss(model, batch)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        if step % 50 == 0:
            print(f"# step {step}: {value.item():.3f}", flush=True)
    return model.covariance()


def entry(name: str, found: Covariance, source: str) -> str:
    """The TOML of one model."""
    parts = [
        f"    {{ deviation = {part.deviation:.3g}, lengths = "
        f"[{', '.join(f'{min(n, LONGEST):.3g}' for n in part.lengths)}], "
        f"smooth = {str(part.smooth).lower()} }},"
        for part in found.components
    ]
    head = [
        f"[[{name}.models]]",
        f'source = "{source}"',
        f"noise = {found.noise:.3g}",
    ]
    return "\n".join([*head, "components = [", *parts, "]"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind")
    parser.add_argument("system")
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--source", required=True, help="what the entry says it was fitted to")
    parser.add_argument("--features", nargs="+", help="those of the kind's models where left out")
    parser.add_argument("--start", type=int, help="number of the kind's model to start from")
    parser.add_argument("--steps", type=int, default=180)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    op_kind, system = kind(options.kind), load_system(options.system)
    features = options.features or models_of(op_kind)[0].features
    groups = [
        group
        for path in options.tables
        for group in groups_of(read_table(path, op_kind), system)
        if len(group.ratios) >= 5 * NEIGHBOURS
    ]
    start = None if options.start is None else models_of(op_kind)[options.start].covariance
    found = fit(groups, features, start=start, steps=options.steps, seed=options.seed)
    print(entry(options.kind, found, options.source))


if __name__ == "__main__":
    main()
