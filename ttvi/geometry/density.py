"""A density in the user's coordinates: one in working coordinates, seen through a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ..records import register
from ..supports import Circle, Support
from ..tt.arguments import check_columns, check_positions
from ..tt.basis import Basis, Fourier
from .chart import Chart
from .composed import Composed
from .coordinates import Coordinates
from .interval import FIRST_SHARPNESS, SHARPNESS
from .mixing_record import mixing_from_record
from .stretch import Stretch

__all__ = ["ChartDensity", "StretchedDensity"]

REDRAWS = 8  # times that draws next to the upper end of an interval are drawn again


@register("ChartDensity")
class ChartDensity(Composed):
    r"""The density :math:`q(x) = q_w(w(x))\,|\partial w/\partial x|` of ``x = chart.forward(w)``, ``w ~ base``.

    Args:
        base: a normalised density of the working coordinates with ``log_prob`` and ``sample``; its ``marginal`` and
            ``condition`` are used where the chart is axis-aligned.
        chart: the map.

    >>> from ttvi.supports import Support, positive
    >>> from ttvi.tt import TTDensity
    >>> coordinates = Coordinates(Support.parse([positive]))
    >>> chart = Chart.axis(coordinates, torch.randn(1000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    >>> base = TTDensity.fit(lambda w: chart.forward(w)[1] - chart.forward(w)[0][:, 0], chart.bases(), seed=0)
    >>> density = ChartDensity(base, chart)
    >>> round(float(density.log_prob(torch.tensor([2.0], dtype=torch.float64))), 3)
    -2.0
    """

    def __init__(self, base: Any, chart: Chart) -> None:
        self.base = base
        self.chart = chart
        super().__init__(torch.Size([chart.support.dim]))

    @property
    def domain(self) -> Support:
        """The support, coordinate by coordinate."""
        return self.chart.support

    @property
    def _first(self) -> Any:
        return self.base

    @property
    def bases(self) -> list[Basis | None]:
        """Of the coordinates that are angles, where every coordinate has an entry of its own, the bases; None for the others."""
        kinds = self.domain.kinds
        if len(kinds) != self.domain.dim:
            return [None] * self.domain.dim
        return [Fourier(float(k.lower), float(k.upper)) if isinstance(k, Circle) else None for k in kinds]

    def __repr__(self) -> str:
        return f"ChartDensity({self.base!r}, {self.chart.label!r})"

    def log_prob(self, value: Tensor) -> Tensor:
        """The normalised log-density: exact, differentiable, ``-inf`` outside the support.

        Args:
            value: shape (..., D).

        Returns:
            Shape (...).
        """
        x = check_columns(value, self.domain.dim, "log_prob").to(dtype=self.dtype, device=self.device)
        inside = self.domain.contains(x)
        w, slope = self.chart.inverse(torch.where(inside[..., None], x, self._anchor[1]))
        return _pulled(self.base, self.chart.stretch, w, slope, inside, self._anchor[0])

    def sample(
        self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None, sobol: bool = False
    ) -> Tensor:
        """Exact draws; those that have rounded to the upper end of an interval, where the density is not theirs, are drawn again.

        Args:
            sample_shape: leading shape of the result.
            generator: source of randomness.
            sobol: quasi-Monte Carlo points, where the base has them; none of them is drawn again.

        Returns:
            Shape ``(*sample_shape, D)``.
        """
        with torch.no_grad():
            x = self.chart.forward(_drawn(self.base, sample_shape, generator, sobol))[0]
            for _ in range(0 if sobol else REDRAWS):
                rounded = self.chart.coordinates.rounded(x)
                if not bool(rounded.any()):
                    break
                x[rounded] = self.chart.forward(_drawn(self.base, (int(rounded.sum()),), generator, False))[0]
            return x

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Draws with gradients in the parameters of the base, shape ``(*sample_shape, D)``."""
        return self.chart.forward(self.base.rsample(torch.Size(sample_shape), generator=generator))[0]

    def marginal(self, dims: Sequence[int]) -> ChartDensity:
        """The exact marginal of some coordinates of ``x``, in their original order.

        Args:
            dims: their positions.

        Raises:
            IndexError: a position does not exist.
            ValueError: the chart mixes these coordinates with others (a triangular one has its first coordinates apart), or ``dims`` splits a block that is one object (a simplex, say).
        """
        kept = sorted(check_positions(dims, self.domain.dim, "marginal"))
        if not kept:
            raise ValueError(
                "marginal: expected at least one coordinate to keep; got none. Name positions, e.g. [0, 3]."
            )
        support, columns = self._blocks(kept, "marginal")
        position = self._positions()
        chart = self._part(self.chart.select(support, columns), "marginal")
        return ChartDensity(self.base.marginal(sorted(int(position[k]) for k in columns)), chart)

    def condition(self, values: Mapping[int, Any]) -> ChartDensity:
        """The exact conditional density of the remaining coordinates, in their original order.

        Args:
            values: position to number. Those of a simplex or of a matrix go together.

        Raises:
            IndexError: a position does not exist.
            ValueError: as for :meth:`marginal`; or everything is fixed, or nothing; or a value lies outside the support.
        """
        dim = self.domain.dim
        fixed = dict(zip(check_positions(list(values), dim, "condition"), values.values(), strict=True))
        rest = [k for k in range(dim) if k not in fixed]
        if not fixed or not rest:
            raise ValueError(
                f"condition: expected between 1 and {dim - 1} coordinates; got {len(fixed)}. Leave one free."
            )
        _, gone = self._blocks(sorted(fixed), "condition")
        support, kept = self._blocks(rest, "condition")
        x = self._anchor[1].clone()
        for k, value in fixed.items():
            x[k] = torch.as_tensor(value, dtype=x.dtype)
        if not bool(self.domain.contains(x)):
            raise ValueError(f"condition: expected values inside the support; got {dict(values)}. Check the bounds.")
        w = self.chart.stretch.within(self.chart.inverse(x)[0])
        position = self._positions()
        chart = self._part(self.chart.select(support, kept, self.chart.coordinates.to_t(x)), "condition")
        base = self.base.condition({int(position[k]): w[position[k]] for k in gone})
        return ChartDensity(base, chart)

    # -- inside --------------------------------------------------------------------------------------------------------

    @cached_property
    def _anchor(self) -> tuple[Tensor, Tensor]:
        """A point in the middle, (m,) and (D,), to stand in where there is nothing to evaluate."""
        coordinates, chart = self.chart.coordinates, self.chart
        start = torch.where(coordinates.circle, coordinates.bounds[0], 0.0)[chart.order]
        w = torch.where(chart.stretch.fixed, start, 0.0).to(dtype=self.dtype, device=self.device)
        return w, chart.forward(w)[0]

    def _positions(self) -> Tensor:
        """The working position of every coordinate ``t``."""
        position = torch.empty_like(self.chart.order)
        position[self.chart.order] = torch.arange(len(position))
        return position

    def _blocks(self, dims: Sequence[int], caller: str) -> tuple[Support, Tensor]:
        """The support of the coordinates ``dims`` and the numbers of theirs ``t``."""
        if not hasattr(self.base, caller):
            raise ValueError(
                f"{caller}: expected a base with exact {caller}s; got {type(self.base).__name__}. Use columns of `sample`, "
                "or fit with flow=False."
            )
        support, kept = self.domain.select(dims, caller=caller)
        return support, torch.tensor(kept, dtype=torch.long)

    def _part(self, chart: Chart | None, caller: str) -> Chart:
        """A part of the chart, if it is one by itself."""
        if chart is None:
            raise ValueError(
                f"{caller}: expected coordinates that the approximation keeps apart; got {self.chart.label} ones, which mix "
                "them (of triangular ones the first are apart, in the order of `chart.order`). Use columns of `sample`, or fit "
                "with geometry='axis'."
            )
        return chart

    def _to_record(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """Description, tensors and children, for :mod:`ttvi.records`."""
        spec, tensors = chart_record(self.chart)
        return spec, tensors, {"base": self.base}

    @classmethod
    def _from_record(
        cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], children: Mapping[str, Any]
    ) -> ChartDensity:
        return cls(children["base"], chart_from_record(spec, tensors))


@register("StretchedDensity")
class StretchedDensity(Composed):
    r"""The density of ``s = stretch(w)``, ``w ~ base``: what a flow starts from, on the whole line.

    Args:
        base: a normalised density of ``w``.
        stretch: the map, column by column.

    >>> from ttvi.tt import Legendre, TTDensity
    >>> base = TTDensity.fit(lambda w: 0 * w[:, 0], [Legendre(-1.0, 1.0)], seed=0)
    >>> nothing = torch.tensor([False])
    >>> density = StretchedDensity(base, Stretch(torch.zeros(1), nothing, nothing))
    >>> round(float(density.log_prob(torch.zeros(1)).exp()), 4)  # |dw/ds| is a third, the density of w a half
    0.1667
    """

    def __init__(self, base: Any, stretch: Stretch) -> None:
        self.base = base
        self.stretch = stretch
        super().__init__(base.event_shape)

    @property
    def _first(self) -> Any:
        return self.base

    @property
    def bases(self) -> list[Basis | None]:
        """Of the columns that are not lines, the bases; None for a line."""
        bases = getattr(self.base, "bases", [None] * len(self.stretch.fixed))
        return [basis if fixed else None for basis, fixed in zip(bases, self.stretch.fixed.tolist(), strict=True)]

    @property
    def support(self) -> constraints.Constraint:
        """The line, or what the base has in a column left alone."""
        inner = [basis.support for basis in self.base.bases]
        fixed = self.stretch.fixed.tolist()
        outer = [old if keep else constraints.real for old, keep in zip(inner, fixed, strict=True)]
        return constraints.cat(outer, dim=-1, lengths=[1] * len(outer))

    def __repr__(self) -> str:
        return f"StretchedDensity({self.base!r})"

    def log_prob(self, value: Tensor) -> Tensor:
        """The normalised log-density: exact, differentiable; ``-inf`` where ``value`` is not finite.

        Args:
            value: shape (..., m).

        Returns:
            Shape (...).
        """
        s = check_columns(value, self.event_shape[0], "log_prob").to(dtype=self.dtype, device=self.device)
        w, slope = self.stretch.inverse(s.nan_to_num(0.0, 0.0, 0.0))
        anchor = torch.where(self.stretch.fixed.to(w.device), w, 0.0)
        return _pulled(self.base, self.stretch, w, slope.sum(-1), torch.isfinite(s).all(-1), anchor)

    def log_prob_columns(self, value: Tensor) -> Tensor | None:
        """Log-density of every column by itself, shape (batch, m), where they are independent; None where they are not."""
        w, slope = self.stretch.inverse(value)
        columns = self.base.log_prob_columns(w) if hasattr(self.base, "log_prob_columns") else None
        return None if columns is None else columns + slope

    def sample(
        self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None, sobol: bool = False
    ) -> Tensor:
        """Exact draws, shape ``(*sample_shape, m)``; the arguments are those of :meth:`ChartDensity.sample`."""
        with torch.no_grad():
            return self.stretch.forward(_drawn(self.base, sample_shape, generator, sobol))[0]

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Draws with gradients in the parameters of the base, shape ``(*sample_shape, m)``."""
        return self.stretch.forward(self.base.rsample(torch.Size(sample_shape), generator=generator))[0]

    def _to_record(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        return {}, self.stretch.tensors(), {"base": self.base}

    @classmethod
    def _from_record(
        cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], children: Mapping[str, Any]
    ) -> StretchedDensity:
        return cls(children["base"], Stretch(**tensors))


def _pulled(base: Any, stretch: Stretch, w: Tensor, slope: Tensor, usable: Tensor, anchor: Tensor) -> Tensor:
    """``log q_w(w) + slope``, and ``-inf`` where not ``usable`` or where the map leaves the floating-point numbers."""
    usable = usable & torch.isfinite(slope) & torch.isfinite(w).all(-1)
    # Far out in the tails w rounds to the end of its interval, where the base still has a density.
    w = stretch.within(torch.where(usable[..., None], w, anchor))
    return torch.where(usable, base.log_prob(w) + torch.where(usable, slope, 0.0), -math.inf)


def _drawn(base: Any, shape: Sequence[int], generator: torch.Generator | None, sobol: bool) -> Tensor:
    # A base from elsewhere need not know the word.
    return base.sample(torch.Size(shape), generator=generator, **({"sobol": True} if sobol else {}))


def chart_record(chart: Chart) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A chart as words and tensors."""
    tensors = {f"mixing.{name}": value for name, value in chart.mixing.tensors().items()}
    tensors |= chart.stretch.tensors() | {"order": chart.order}
    spec: dict[str, Any] = {
        "support": chart.support.to_spec(),
        "label": chart.label,
        "mixing": type(chart.mixing).__name__,
    }
    if bool(chart.coordinates.interval.any()):
        spec["sharpness"] = SHARPNESS
    return spec, tensors


def chart_from_record(spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Chart:
    """The chart that :func:`chart_record` described.

    Raises:
        ValueError: its intervals were mapped to the line in another way, and the density would be another one.
    """
    coordinates = Coordinates(Support.from_spec(spec["support"]))
    sharpness = spec.get("sharpness", FIRST_SHARPNESS)
    if bool(coordinates.interval.any()) and sharpness != SHARPNESS:
        raise ValueError(
            f"load: expected intervals mapped with sharpness {SHARPNESS:g}; got {sharpness:g}, of another version of ttvi. "
            "Fit again, or load it with the version that saved it."
        )
    prefix = "mixing."
    inner = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return Chart(
        coordinates,
        mixing_from_record(spec["mixing"], inner),
        Stretch(tensors["exponents"], tensors["native"], tensors["fixed"], tensors.get("ends")),
        tensors["order"],
        spec["label"],
    )
