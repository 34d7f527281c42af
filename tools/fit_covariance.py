"""Fit the covariance of an op kind to tables and print its entry of perfdb/covariances.toml.

    python tools/fit_covariance.py gemm h100_sxm TABLE.parquet [TABLE ...] --source "h100_sxm vllm 0.19.0"

Maximum likelihood of single rows and of whole sites left out, in turn, each from its neighbours under the covariance as
it is then. Residuals are Student's t with 4 degrees of freedom, because tables have outliers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy
import torch

from oplib.kind import OpKind
from oplib.op import kind
from perfdb.efficiency import Group, groups_of
from perfdb.folds import FOLDS, Fold
from perfdb.kriging import Component, Covariance, Field
from perfdb.systems import load_system
from perfdb.tables import read_table

FREEDOM, ROWS, NEIGHBOURS = 4.0, 192, 32
#: Where the search starts: deviation, length along dims and over parameters. Smooth over all; steps along a dim that
#: near and far shapes share; what is a row's own; what is a shape's own.
START = ((0.4, 8.0, 8.0), (0.1, 0.5, 2.0), (0.1, 0.5, 8.0), (0.1, 0.5, 0.5), (0.1, 4.0, 0.7))
COMPONENTS = len(START)


class Parameters(torch.nn.Module):
    """A covariance whose logarithms can be learned."""

    def __init__(self, op_kind: OpKind) -> None:
        super().__init__()
        deviations, dims, shapes = torch.tensor(START).log().T
        columns = [dims if name in op_kind.dims else shapes for name in op_kind.coordinates]
        self.deviations = torch.nn.Parameter(deviations.clone())
        self.lengths = torch.nn.Parameter(torch.stack(columns, dim=1))
        self.noise = torch.nn.Parameter(torch.tensor(0.015).log())

    def covariance(self) -> Covariance:
        deviations, lengths = self.deviations.exp().tolist(), self.lengths.exp().tolist()
        return Covariance(
            components=tuple(
                Component(deviation=deviations[i], lengths=tuple(lengths[i]), smooth=i == 0)
                for i in range(COMPONENTS)
            ),
            noise=float(self.noise.exp()),
        )

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """As `Covariance.__call__`."""
        apart = (first.unsqueeze(-2) - second.unsqueeze(-3)).abs()
        total = torch.zeros(apart.shape[:-1])
        for i in range(COMPONENTS):
            scaled = apart / self.lengths[i].exp()
            if i == 0:
                far = (3 * scaled.square().sum(-1) + 1e-12).sqrt()
                shape = (1 + far) * (-far).exp()
            else:
                shape = (-scaled.sum(-1)).exp()
            total = total + (2 * self.deviations[i]).exp() * shape
        return total


def loss(model: Parameters, group: Group, fold: Fold, asked: numpy.ndarray) -> torch.Tensor:
    """Negative log likelihood of the rows `asked`, up to a constant."""
    field = Field(group.points, group.ratios, model.covariance(), neighbours=NEIGHBOURS)
    near = field.choose(group.points[asked], 5 * NEIGHBOURS, fold.hidden, asked)
    points = torch.tensor(group.points, dtype=torch.float32)
    values = torch.tensor(group.ratios)
    query, known, count = points[asked][:, None, :], points[near], near.shape[1]
    system = torch.ones(len(asked), count + 1, count + 1, dtype=torch.float64)
    noise = (2 * model.noise).exp()
    system[:, :count, :count] = (model(known, known) + noise * torch.eye(count)).double()
    system[:, count, count] = 0.0
    right = torch.ones(len(asked), count + 1, dtype=torch.float64)
    right[:, :count] = model(query, known)[:, 0, :].double()
    weights = torch.linalg.solve(system, right)
    mean = (weights[:, :count] * values[near]).sum(1)
    variance = (2 * model.deviations).exp().sum() - (weights * right).sum(1)
    deviation = (variance.clamp_min(1e-10) + noise).sqrt()
    z = (values[asked] - mean) / deviation
    return (deviation.log() + (FREEDOM + 1) / 2 * torch.log1p(z.square() / FREEDOM)).mean()


def fit(groups: list[Group], *, steps: int, seed: int) -> Covariance:
    """The covariance after `steps` batches, each of one group drawn by its rows."""
    random = numpy.random.default_rng(seed)
    rows = numpy.array([len(g.ratios) for g in groups], dtype=float)
    folds = [[FOLDS[name](group) for name in ("point", "site")] for group in groups]
    model = Parameters(groups[0].rows.kind)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for step in range(steps):
        if step == steps * 2 // 3:
            optimiser.param_groups[0]["lr"] = 0.02
        i = int(random.choice(len(groups), p=rows / rows.sum()))
        fold = folds[i][step % 2]
        if len(numpy.unique(fold.hidden)) < 3:
            fold = folds[i][0]
        asked = random.choice(fold.asked, min(ROWS, len(fold.asked)), replace=False)
        value = loss(model, groups[i], fold, asked)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        if step % 50 == 0:
            print(f"# step {step}: {value.item():.3f}", flush=True)
    return model.covariance()


def entry(name: str, coordinates: tuple[str, ...], found: Covariance, source: str) -> str:
    """The TOML of one kind."""
    parts = [
        f"    {{ deviation = {part.deviation:.3g}, lengths = [{', '.join(f'{n:.3g}' for n in part.lengths)}], "
        f"smooth = {str(part.smooth).lower()} }},"
        for part in found.components
    ]
    names = ", ".join(f'"{c}"' for c in coordinates)
    head = [
        f"[{name}]",
        f'source = "{source}"',
        f"coordinates = [{names}]",
        f"noise = {found.noise:.3g}",
    ]
    return "\n".join([*head, "components = [", *parts, "]"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind")
    parser.add_argument("system")
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--source", required=True, help="what the entry says it was fitted to")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    op_kind, system = kind(options.kind), load_system(options.system)
    groups = [
        group
        for path in options.tables
        for group in groups_of(read_table(path, op_kind), system)
        if len(group.ratios) >= 5 * NEIGHBOURS
    ]
    found = fit(groups, steps=options.steps, seed=options.seed)
    print(entry(options.kind, op_kind.coordinates, found, options.source))


if __name__ == "__main__":
    main()
