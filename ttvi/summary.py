"""The table that a person reads after a fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .estimates import circular_moments, weighted_quantile, weighted_variance
from .supports import Circle, Finite, Kind
from .verdict import Diagnostics, Verdict

__all__ = ["LEVELS", "Row", "Summary", "coordinate_rows"]

LEVELS = (0.05, 0.5, 0.95)
_TOP = 3
_MOST_ROWS = 40


@dataclass(frozen=True)
class Row:
    """One coordinate.

    Attributes:
        name: its name.
        mean: posterior mean; on a circle, the mean direction.
        sd: standard deviation; on a circle, the circular one.
        quantiles: at 5, 50 and 95 %; on a circle, counted around the mean direction.
        probabilities: of the most probable values of a finite coordinate, the first three.
    """

    name: str
    mean: float
    sd: float
    quantiles: tuple[float, ...]
    probabilities: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Summary:
    """What `Posterior.summary` returns; its ``str`` is the table.

    Attributes:
        rows: one per coordinate.
        diagnostics: of the fit.
        verdict: on it.
    """

    rows: tuple[Row, ...]
    diagnostics: Diagnostics
    verdict: Verdict

    def __str__(self) -> str:
        return "\n".join([*self._table(), "", *self._account(), "", f"Verdict: {self.verdict}"])

    __repr__ = __str__

    def _table(self) -> list[str]:
        heads = ["", "mean", "sd", *(f"{100 * level:g} %" for level in LEVELS)]
        shown = self.rows[:_MOST_ROWS]
        cells = [[row.name, *(_number(value) for value in (row.mean, row.sd, *row.quantiles))] for row in shown]
        widths = [max(len(line[k]) for line in [heads, *cells]) for k in range(len(heads))]
        lines = []
        for line, row in zip([heads, *cells], [None, *shown]):
            text = "  ".join([line[0].ljust(widths[0]), *(c.rjust(n) for c, n in zip(line[1:], widths[1:]))])
            if row is not None and row.probabilities:
                text += "  " + ", ".join(f"P({value:g}) = {mass:.3f}" for value, mass in row.probabilities)
            lines.append(text.rstrip())
        if len(self.rows) > len(shown):
            lines.append(f"… and {len(self.rows) - len(shown)} more coordinates, in `.rows`")
        return lines

    def _account(self) -> list[str]:
        d = self.diagnostics
        lines = [
            f"log evidence   {d.log_evidence:.4f} ± {d.standard_error:.2g}",
            f"effective      {d.ess:.1%} of {d.num_draws} draws, Pareto k {_number(d.pareto_k)}",
            f"evaluations    {d.num_evaluations:,}" + (f" in {d.seconds:.1f} s" if d.seconds else ""),
        ]
        if d.ranks or d.status:
            rank = f"rank {max(d.ranks)}" if d.ranks else ""
            lines.append(f"train          {', '.join(part for part in (d.status, rank) if part)}")
        if d.num_invalid:
            lines.append(f"invalid        {d.num_invalid:,} evaluations, taken as zero density")
        if d.mode_census is not None:
            lost = len(d.missed_modes)
            lines.append(f"modes          {len(d.mode_census)} found by independent starts, {lost} of them missed")
        return lines


def coordinate_rows(x: Tensor, weights: Tensor, names: Sequence[str], kinds: Sequence[Kind]) -> tuple[Row, ...]:
    """One row per column of weighted draws.

    Args:
        x: shape (S, dim).
        weights: shape (S,), summing to one.
        names, kinds: one per column.
    """
    x = x.to(torch.float64)
    circles = {k: kind for k, kind in enumerate(kinds) if isinstance(kind, Circle)}
    centres: dict[int, tuple[float, float]] = {}
    flat = x.clone()
    for k, circle in circles.items():
        centres[k] = circular_moments(x[:, k], weights, circle.lower, circle.upper)
        half = (circle.upper - circle.lower) / 2
        flat[:, k] = torch.remainder(x[:, k] - centres[k][0] + half, 2 * half) - half  # around the mean direction
    discrete = torch.tensor([isinstance(kind, Finite) for kind in kinds], device=x.device)
    quantiles = weighted_quantile(flat, weights, torch.tensor(LEVELS, device=x.device), discrete)[0].mT.tolist()
    means = (weights.to(x.dtype)[:, None] * x).sum(0).tolist()
    sds = weighted_variance(x, weights)[0].clamp_min(0).sqrt().tolist()
    rows = []
    for k, (name, kind) in enumerate(zip(names, kinds)):
        if isinstance(kind, Circle):
            mean, sd = centres[k]
            values = tuple(mean + value for value in quantiles[k])
            rows.append(Row(name, mean, sd, values))
            continue
        top = _probabilities(x[:, k], weights, kind) if isinstance(kind, Finite) else ()
        rows.append(Row(name, means[k], sds[k], tuple(quantiles[k]), top))
    return tuple(rows)


def _probabilities(column: Tensor, weights: Tensor, kind: Finite) -> tuple[tuple[float, float], ...]:
    """The most probable values of a finite coordinate with their probabilities."""
    values, places = column.unique(return_inverse=True)
    masses = torch.zeros_like(values).index_add_(0, places, weights.to(values.dtype))
    best = masses.argsort(descending=True)[:_TOP]
    return tuple((float(values[k]), float(masses[k])) for k in best if float(masses[k]) > 0)


def _number(value: float) -> str:
    """Four digits after the point, or four significant ones where that would hide the number."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4f}" if value == 0 or 1e-2 <= abs(value) < 1e5 else f"{value:.3e}"
