"""Pictures of a density: its one- and two-dimensional marginals in one corner plot, exact wherever they are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .coordinates import Circle, Finite
from .errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["corner"]

MASS_LEVELS = (0.99, 0.86, 0.39)
"""Mass inside the contours: those of one, two and three standard deviations of a two-dimensional Gaussian."""

_FILL = "#2a6f97"
_LINE = "#013a63"
_DOTS = "#d1495b"
_MAX_COORDINATES = 8
_FINE = 512
_MOST_DRAWS = 20_000  # of a posterior, smoothed where it has no exact marginal
_TAIL = 0.004  # an approximation at a loose tolerance carries some mass far out; it should not set the axes


@dataclass(frozen=True)
class _Axis:
    """One coordinate as it is drawn: the points of its grid, and whether they are categories."""

    grid: torch.Tensor
    discrete: bool
    name: str

    @property
    def limits(self) -> tuple[float, float]:
        pad = 0.5 if self.discrete else 0.0
        return float(self.grid[0]) - pad, float(self.grid[-1]) + pad


def corner(
    density: Any,
    *,
    names: Sequence[str] | None = None,
    dims: Sequence[int] | None = None,
    samples: torch.Tensor | None = None,
    path: str | Path | None = None,
    title: str | None = None,
    grid_size: int = 96,
) -> Figure:
    """Corner plot of the exact marginals of a density: no histogram, no smoothing.

    The diagonal shows p(x_i), below it p(x_i, x_j) with filled contours around 39, 86 and 99 % of the mass. Finite
    coordinates are drawn as bars and tiles. Costs d(d − 1)/2 marginals on grids of `grid_size`² points. Where a posterior
    has no exact marginal (its coordinates are mixed by a whitening or a flow), its weighted draws are smoothed instead.

    Args:
        density: a `TTDensity` or a `Posterior`.
        names: one name per coordinate of `density`; its own, or x1, x2, …, when None.
        dims: coordinates to draw, at most eight; the first eight, and a note in the title, when None.
        samples: points to scatter over the contours, shape (count, dim).
        path: where to save the picture (the suffix chooses the format); not saved when None.
        title: a line above the picture.
        grid_size: points per side of the grid of a two-dimensional marginal.

    Returns:
        The matplotlib figure, attached to no window.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: for coordinates or names that do not fit the density.
    """
    figure_class = _figure_class()
    names = getattr(density, "names", None) if names is None else names
    density = _Drawn(density) if hasattr(density, "kinds") else density
    chosen = _chosen(density, dims)
    labels = _labels(density, names)
    axes_of = {k: _axis(density, k, labels[k], grid_size) for k in chosen}

    count = len(chosen)
    side = 1.2 + 1.75 * count
    figure = figure_class(figsize=(side, side), layout="constrained")
    panels = figure.subplots(count, count, squeeze=False)
    for row, i in enumerate(chosen):
        for column, j in enumerate(chosen):
            panel = panels[row][column]
            if column > row:
                panel.set_visible(False)
            elif column == row:
                _draw_one(panel, density, i, axes_of[i])
            else:
                _draw_two(panel, density, j, i, axes_of[j], axes_of[i], samples)
            if column <= row:
                _dress(panel, axes_of[j], axes_of[i], row=row, column=column, last=count - 1)
    left_out = density.event_shape[0] - count if dims is None else 0
    if left_out:  # silence would look like a density of eight coordinates
        note = f"first {count} of {count + left_out} coordinates"
        title = f"{title} ({note})" if title else note
    if title:
        figure.suptitle(title, color="#333333")
    if path is not None:
        figure.savefig(Path(path), dpi=150, facecolor="white")
    return figure


class _Drawn:
    """A posterior as it is drawn: exact marginals where it has them, else smoothed weighted draws."""

    def __init__(self, posterior: Any) -> None:
        self.posterior = posterior
        self.event_shape, self.dtype, self.device = posterior.event_shape, posterior.dtype, posterior.device
        if hasattr(posterior, "draws"):
            x, weights = posterior.draws, posterior.weights
        else:  # a conditional: no weights correct it
            x = posterior.sample(4096, seed=0)
            weights = torch.full((len(x),), 1 / len(x), dtype=x.dtype, device=x.device)
        if len(x) > _MOST_DRAWS:
            x, weights = x[:_MOST_DRAWS], weights[:_MOST_DRAWS] / weights[:_MOST_DRAWS].sum()
        self.x, self.weights = x, weights.to(x.dtype)

    def axis(self, k: int, name: str, grid_size: int) -> _Axis:
        """All values of a finite coordinate, a whole circle, else the weighted quantiles and a margin."""
        kind: Any = self.posterior.kinds[k]
        if isinstance(kind, Finite):
            return _Axis(torch.tensor(kind.values, dtype=self.dtype, device=self.device), True, name)
        lower, upper = getattr(kind, "lower", -math.inf), getattr(kind, "upper", math.inf)
        if not isinstance(kind, Circle):
            column, order = self.x[:, k].sort()
            mass = self.weights[order].cumsum(0)
            first, last = (float(column[min(int((mass < p).sum()), len(mass) - 1)]) for p in (_TAIL, 1 - _TAIL))
            margin = 0.12 * (last - first) or 1.0  # a half-line may end within it: zero there, and drawn as such
            lower, upper = max(lower, first - margin), min(upper, last + margin)
        return _Axis(torch.linspace(lower, upper, grid_size, dtype=self.dtype, device=self.device), False, name)

    def marginal(self, dims: Sequence[int]) -> Any:
        """The exact marginal, or the smoothed draws of those columns."""
        try:
            return _Gridded(self.posterior.marginal(list(dims)))
        except ValueError:
            kinds = [self.posterior.kinds[k] for k in dims]
            return _Smoothed(self.x[:, list(dims)], self.weights, kinds)


@dataclass(frozen=True)
class _Gridded:
    """An exact marginal of one or two coordinates, with a product grid."""

    density: Any

    def log_prob(self, points: torch.Tensor) -> torch.Tensor:
        return self.density.log_prob(points)

    def log_prob_grid(self, grids: Sequence[torch.Tensor]) -> torch.Tensor:
        mesh = torch.stack(torch.meshgrid(*grids, indexing="ij"), -1)
        return self.density.log_prob(mesh)


@dataclass(frozen=True)
class _Smoothed:
    """Weighted draws under Gaussian kernels of Scott's width, wrapped on circles, none on finite sets."""

    x: torch.Tensor
    weights: torch.Tensor
    kinds: Sequence[Any]

    def log_prob(self, points: torch.Tensor) -> torch.Tensor:
        return self.log_prob_grid([points[:, 0]])

    def log_prob_grid(self, grids: Sequence[torch.Tensor]) -> torch.Tensor:
        factors = [self._kernel(k, grid) for k, grid in enumerate(grids)]
        if len(factors) == 1:
            return (factors[0] @ self.weights).log()
        return ((factors[0] * self.weights) @ factors[1].mT).log()

    def _kernel(self, k: int, grid: torch.Tensor) -> torch.Tensor:
        """Shape (grid, draws)."""
        column, kind = self.x[:, k], self.kinds[k]
        distance = grid[:, None] - column
        if isinstance(kind, Finite):
            return (distance.abs() < 0.5).to(column.dtype)
        if isinstance(kind, Circle):
            period = kind.upper - kind.lower
            distance = torch.remainder(distance + period / 2, period) - period / 2
        mean = (self.weights * column).sum()
        spread = (self.weights * (column - mean).square()).sum().sqrt()
        width = float(spread) * float(self.weights.square().sum()) ** (1 / (4 + len(self.kinds))) or 1.0
        return torch.exp(-0.5 * (distance / width).square()) / (width * math.sqrt(2 * math.pi))


def _figure_class() -> Any:
    """matplotlib's Figure, without pyplot and its global list of figures."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("corner", "matplotlib", "plots") from error
    return Figure


def _chosen(density: Any, dims: Sequence[int] | None) -> list[int]:
    """Coordinates to draw, as positions counted from the front."""
    dim = density.event_shape[0]
    if dims is None:
        return list(range(min(dim, _MAX_COORDINATES)))
    if not dims or len(dims) > _MAX_COORDINATES:
        raise ValueError(
            f"corner: expected 1 to {_MAX_COORDINATES} coordinates in `dims`; got {len(dims)}. "
            "Draw several figures, each of a few coordinates."
        )
    if not all(-dim <= k < dim for k in dims) or len({k % dim for k in dims}) < len(dims):
        raise ValueError(f"corner: expected distinct `dims` below {dim}; got {list(dims)}. Count coordinates from 0.")
    return [k % dim for k in dims]


def _labels(density: Any, names: Sequence[str] | None) -> list[str]:
    dim = density.event_shape[0]
    if names is None:
        return [f"$x_{{{k + 1}}}$" for k in range(dim)]
    if len(names) != dim:
        raise ValueError(f"corner: expected {dim} `names`; got {len(names)}. Name every coordinate of the density.")
    return list(names)


def _axis(density: Any, k: int, name: str, grid_size: int) -> _Axis:
    """The part of coordinate k worth drawing: all categories, a whole circle, else all but 0.8 % of the mass."""
    if isinstance(density, _Drawn):
        return density.axis(k, name, grid_size)
    basis = density.bases[k]
    support: Any = basis.support
    if basis.discrete:
        lowest, highest = int(support.lower_bound), int(support.upper_bound)
        return _Axis(torch.arange(lowest, highest + 1, dtype=density.dtype, device=density.device), True, name)
    lower, upper = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if lower is None or upper is None:
        one = density.marginal([k])
        centre, width = float(one.mean[0]), 8 * math.sqrt(float(one.variance[0]))
        lower, upper = centre - width, centre + width
    lower, upper = float(lower), float(upper)
    if not basis.periodic:
        lower, upper = _bulk(density, k, lower, upper)
    return _Axis(torch.linspace(lower, upper, grid_size, dtype=density.dtype, device=density.device), False, name)


def _bulk(density: Any, k: int, lower: float, upper: float) -> tuple[float, float]:
    """Interval that leaves out a fraction `_TAIL` of the mass on either side, with a small margin."""
    for _ in range(2):  # the second pass resolves what a grid over the whole support may have missed
        grid = torch.linspace(lower, upper, _FINE, dtype=density.dtype, device=density.device)
        mass = _values(density, [k], grid[:, None]).cumsum(0)
        mass = mass / mass[-1]
        step = (upper - lower) / (_FINE - 1)
        first, last = int((mass < _TAIL).sum()), int((mass < 1 - _TAIL).sum())
        lower, upper = max(lower, lower + (first - 2) * step), min(upper, lower + (last + 2) * step)
    margin = 0.06 * (upper - lower)
    return max(lower - margin, float(grid[0])), min(upper + margin, float(grid[-1]))


def _values(density: Any, dims: list[int], points: torch.Tensor) -> torch.Tensor:
    """Marginal density at points, (batch, len(dims)) -> (batch,)."""
    with torch.no_grad():
        return density.marginal(dims).log_prob(points).exp().nan_to_num(0.0)


def _draw_one(panel: Axes, density: Any, k: int, axis: _Axis) -> None:
    """p(x_k): a filled curve, or bars."""
    if axis.discrete:
        heights = _values(density, [k], axis.grid[:, None])
        panel.bar(axis.grid.tolist(), heights.tolist(), width=0.7, color=_FILL, alpha=0.8)
    else:
        lower, upper = axis.limits
        grid = torch.linspace(lower, upper, _FINE, dtype=axis.grid.dtype, device=axis.grid.device)
        heights = _values(density, [k], grid[:, None])
        x, y = grid.cpu().numpy(), heights.cpu().numpy()
        panel.fill_between(x, y, color=_FILL, alpha=0.25, linewidth=0)
        panel.plot(x, y, color=_LINE, linewidth=1.4)
    panel.set_ylim(0, 1.08 * float(heights.max()))


def _draw_two(
    panel: Axes,
    density: Any,
    j: int,
    i: int,
    horizontal: _Axis,
    vertical: _Axis,
    samples: torch.Tensor | None,
) -> None:
    """p(x_j, x_i), x_j to the right and x_i up, with optional samples over it."""
    flip = j > i  # a marginal keeps the density's own order of coordinates
    grids = [vertical.grid, horizontal.grid] if flip else [horizontal.grid, vertical.grid]
    with torch.no_grad():
        values = density.marginal(sorted((i, j))).log_prob_grid(grids).exp().nan_to_num(0.0)
    values = values if flip else values.T
    x, y, z = (tensor.cpu().numpy() for tensor in (horizontal.grid, vertical.grid, values))
    if horizontal.discrete or vertical.discrete:
        panel.pcolormesh(x, y, z, cmap="Blues", vmin=0, shading="nearest", rasterized=True)
    else:
        levels = _levels(values)
        if levels:
            panel.contourf(x, y, z, levels=[*levels, math.inf], colors=[_FILL] * 3, alpha=_alphas(len(levels)))
            panel.contour(x, y, z, levels=levels, colors=_LINE, linewidths=0.7)
    if samples is not None:
        dots = samples.detach().cpu().numpy()
        panel.plot(dots[:, j], dots[:, i], ".", color=_DOTS, markersize=1.5, alpha=0.5, markeredgewidth=0)


def _levels(values: torch.Tensor) -> list[float]:
    """Heights whose superlevel sets hold the shares MASS_LEVELS of the mass on an equispaced grid, ascending."""
    ordered = values.reshape(-1).sort(descending=True).values
    mass = ordered.cumsum(0) / ordered.sum()
    last = ordered.numel() - 1
    heights = [float(ordered[min(int((mass < share).sum()), last)]) for share in MASS_LEVELS]
    return sorted({height for height in heights if height > 0})


def _alphas(count: int) -> list[float]:
    return [0.2, 0.5, 0.85][:count]


def _dress(panel: Axes, horizontal: _Axis, vertical: _Axis, *, row: int, column: int, last: int) -> None:
    """Shared limits, and labels at the outer edge only."""
    panel.set_xlim(*horizontal.limits)
    if row != column:
        panel.set_ylim(*vertical.limits)
    panel.tick_params(labelsize=7, length=2, color="#888888", labelcolor="#333333")
    for spine in panel.spines.values():
        spine.set_color("#bbbbbb")
    _ticks(panel.xaxis, horizontal)
    if row == last:
        panel.set_xlabel(horizontal.name, fontsize=9)
        for label in panel.get_xticklabels():
            label.set_rotation(45)
    else:
        panel.tick_params(labelbottom=False)
    if row == column:
        panel.set_yticks([])
        for side in ("left", "right", "top"):
            panel.spines[side].set_visible(False)
        return
    _ticks(panel.yaxis, vertical)
    if column == 0:
        panel.set_ylabel(vertical.name, fontsize=9)
    else:
        panel.tick_params(labelleft=False)


def _ticks(axis: Any, drawn: _Axis) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator

    if drawn.discrete and drawn.grid.numel() <= 8:
        axis.set_major_locator(FixedLocator(drawn.grid.tolist()))
    else:
        axis.set_major_locator(MaxNLocator(nbins=4, prune="both"))
