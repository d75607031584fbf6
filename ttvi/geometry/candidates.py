"""Charts to choose from, and the first look at each: the weights of its product density."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .assessment import Assessment, assess
from .axes import axes
from .chart import Chart
from .coordinates import Coordinates, Pullback
from .product import product_density
from .stretch import tail_exponent

__all__ = [
    "CURVATURE",
    "DIFFERENCES",
    "GEOMETRIES",
    "NARROW",
    "NARROWEST",
    "Candidate",
    "at_maximum",
    "charts",
    "differences",
    "in_chart",
    "look",
    "triangular",
    "whitened",
]

GEOMETRIES = ("auto", "axis", "whitened", "triangular", "atlas")
MOST_WHITENED = 512
CURVATURE = "curvature"  # label of the chart of Laplace's approximation
DIFFERENCES = "differences"  # label of the chart in which angles follow one other each
QUANTILES = 4096  # of a normal column
NARROW = 0.05  # share of the draws of a product with some column far out, where it is mixed in
NARROWEST = 0.01  # and where a flow starts from it, which moves none of what is far out


@dataclass(frozen=True)
class Candidate:
    """A density in working coordinates, its chart, and what its weights say.

    Attributes:
        chart: the chart.
        density: in its working coordinates.
        assessment: weighted draws, in working coordinates.
        kind: "product" or "train".
        points: in ``t``, that a product was made from, shape (N, m); none for a train.
    """

    chart: Chart
    density: Any
    assessment: Assessment
    kind: str
    points: Tensor | None = None

    def with_narrow_tails(self, safe: float = NARROW) -> Any:
        """The product again for a flow to start from, or to mix in: what a safe one spends far out would only cost there.

        Args:
            safe: share of the draws that have some column far out.
        """
        if self.points is None:
            return self.density
        return product_density(self.chart, self.chart.from_t(self.points)[0], safe=safe)

    @property
    def label(self) -> str:
        """In words."""
        return f"{self.chart.label}, {self.kind}"

    def row(self) -> dict[str, Any]:
        """Plain values for the diagnostics."""
        a = self.assessment
        return {"geometry": self.chart.label, "kind": self.kind, "ess": a.ess, "elbo": a.elbo, "pareto_k": a.pareto_k}


def in_chart(target: Pullback, chart: Chart) -> Callable[[Tensor], Tensor]:
    """The log-density of the working coordinates of a chart."""

    def log_density(w: Tensor) -> Tensor:
        t, slope = chart.to_t(w)
        return target(t) + slope

    return log_density


def charts(
    coordinates: Coordinates,
    points: Tensor,
    geometry: str,
    *,
    known: Chart | None = None,
    ends: tuple[Tensor, Tensor] | None = None,
) -> list[Chart]:
    """The charts that a population suggests.

    *axis*: the user's coordinates one by one. *whitened*: principal axes of the population. *triangular*: every
    coordinate given the earlier ones, in the order (given, reversed, heavy tails last) of the highest penalised likelihood.
    *differences*: likewise, where every angle follows one other.

    Args:
        coordinates: the coordinates.
        points: the population, shape (N, m).
        geometry: one of those, or "auto" for all that apply.
        known: a triangular chart that there is already.
        ends: where the user's coordinates may end (:func:`.ends_of_columns`); None: nowhere.
    """
    found = []
    lines = int(coordinates.line.sum())
    follow = bool(coordinates.following.any())
    if geometry in ("auto", "axis", "atlas") or not follow:
        found.append(Chart.axis(coordinates, points, ends=ends))
    if geometry in ("auto", "triangular") and follow:
        found.append(known or triangular(coordinates, points))
        if not found[-1].smooth:
            found.append(differences(coordinates, points, found[-1].order))
    if geometry in ("auto", "whitened") and 2 <= lines <= MOST_WHITENED:
        found.append(whitened(coordinates, points))
    return found


def whitened(
    coordinates: Coordinates, points: Tensor, label: str = "whitened", *, order: Tensor | None = None
) -> Chart:
    """Principal axes of the lines, widest first, or every line given the earlier ones in an order; angles and finite sets stay."""
    line = coordinates.line
    number = line.nonzero()[:, 0]
    columns = points[:, number]
    count, dim = columns.shape
    centred = columns - columns.mean(0)
    scale = centred.square().mean(0).sqrt().clamp_min(1e-12)
    correlation = (centred / scale).T @ (centred / scale) / count
    shrink = min(0.5, 0.1 * dim / count)
    correlation = (1 - shrink) * correlation + shrink * torch.eye(dim, dtype=points.dtype)
    matrix = torch.eye(coordinates.dim, dtype=points.dtype)
    matrix[number[:, None], number[None]] = axes(correlation * scale[:, None] * scale, order)
    loc = torch.where(line, points.mean(0), 0.0)
    return Chart.affine(coordinates, points, loc, matrix, label=label)


def at_maximum(
    coordinates: Coordinates, mode: Tensor, precision: Tensor, order: Tensor | None = None
) -> tuple[Chart, Tensor]:
    """Axes of the curvature at a maximum (:mod:`.axes`), and points as they are spread if it is all there is.

    Laplace's approximation: what a population of a thousand estimates with errors of some per cent in every one of many
    directions, a density that is nearly normal tells exactly.

    Args:
        coordinates: all of them lines.
        mode: shape (m,).
        precision: shape (m, m).
        order: in which the coordinates follow from each other; None for principal axes.
    """
    matrix = axes(torch.linalg.inv(precision), order)
    chart = Chart.plain_affine(coordinates, mode, matrix, label=CURVATURE)
    levels = (torch.arange(QUANTILES, dtype=matrix.dtype) + 0.5) / QUANTILES
    generator = torch.Generator().manual_seed(0)
    orders = torch.rand(QUANTILES, len(mode), generator=generator, dtype=matrix.dtype).argsort(0)
    return chart, mode + torch.special.ndtri(levels)[orders] @ matrix.T


def triangular(coordinates: Coordinates, points: Tensor) -> Chart:
    """Every coordinate given the earlier ones, in the order of the highest penalised likelihood; see :func:`charts`."""
    given = torch.arange(coordinates.dim)
    _, _, tau = tail_exponent(points)
    tails = torch.where(coordinates.line, tau, -1.0).argsort(stable=True)
    orders = [given, given.flip(0)] + ([tails] if bool((tails != given).any()) else [])
    fits = [Chart.triangular(coordinates, points, order, label="triangular") for order in orders]
    best = max(range(len(fits)), key=lambda k: fits[k][1] + (0.05 if k == 0 else 0.0))
    return fits[best][0]


def differences(coordinates: Coordinates, points: Tensor, order: Tensor) -> Chart:
    """Every angle given the one that says most of it: no more than differences of angles, and smooth, as a train needs it."""
    return Chart.triangular(coordinates, points, order, label=DIFFERENCES, single=True)[0]


def look(target: Pullback, chart: Chart, points: Tensor, count: int, generator: torch.Generator) -> Candidate:
    """The product density of a chart and its weights; ``count`` evaluations."""
    density = product_density(chart, chart.from_t(points)[0])
    return Candidate(chart, density, assess(density, in_chart(target, chart), count, generator), "product", points)
