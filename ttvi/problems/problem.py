"""The value objects that every named problem is made of."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch
from torch.distributions import constraints

from ..supports import circular
from ..tt.basis import Basis, Legendre

__all__ = [
    "Array",
    "Modes",
    "Moments",
    "Problem",
    "Support",
    "box_problem",
    "circles",
    "intervals",
    "legendre_bases",
    "load_data",
    "numbered",
    "reference_moments",
]

Support = list[Any] | dict[str, Any]
"""What `ttvi.fit` takes as ``support``: a constraint per coordinate, or named constraints and blocks."""


@dataclass(frozen=True)
class Moments:
    """Means and standard deviations that a posterior is compared with.

    Attributes:
        mean: shape (m,), float64; NaN where a quantity has none.
        sd: shape (m,).
        quantities: maps points (batch, d) to the quantities (batch, m) that have these moments.
        names: one name per quantity.
    """

    mean: torch.Tensor
    sd: torch.Tensor
    quantities: Callable[[torch.Tensor], torch.Tensor]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Modes:
    """The modes of a mixture: where they are, what they weigh, and which one a point belongs to.

    Attributes:
        centres: shape (k, d), float64.
        weights: shares of the mass, shape (k,), sum one.
        responsibilities: probability that a point came from each mode, (batch, d) -> (batch, k). Its mean over draws
            estimates `weights` without bias, however much the modes overlap.
    """

    centres: torch.Tensor
    weights: torch.Tensor
    responsibilities: Callable[[torch.Tensor], torch.Tensor]

    def assign(self, x: torch.Tensor) -> torch.Tensor:
        """Index of the most probable mode of every point, (batch, d) -> (batch,)."""
        return self.responsibilities(x).argmax(1)


@dataclass(frozen=True)
class Problem:
    """A target density with what is known about it.

    Attributes:
        name: the name under which `ttvi.problems.get` returns it, "ginzburg-landau-32".
        dim: number of coordinates d.
        log_density: unnormalised log p̃ (nats), (batch, d) -> (batch,); any floating dtype, any device.
        lower: lower corner of a box that holds all but a negligible mass, shape (d,), or None where a coordinate is
            not on an interval or no such box is recommended.
        upper: its upper corner, shape (d,), or None.
        make_bases: builds the recommended bases, called by `bases`; None for a problem that needs its coordinates
            to be found first.
        log_evidence: log ∫ p̃ over the support (nats), computed independently of ttvi, or None where it is not known.
        names: one name per coordinate.
        reference: where the problem and its log evidence come from.
        make_support: builds what `support` returns; None for R^d.
        log_evidence_error: how far `log_evidence` may be off (nats); zero where every digit holds.
        moments: reference means and standard deviations, or None.
        modes: the modes of a mixture, or None.
    """

    name: str
    dim: int
    log_density: Callable[[torch.Tensor], torch.Tensor]
    lower: torch.Tensor | None
    upper: torch.Tensor | None
    make_bases: Callable[[], list[Basis]] | None
    log_evidence: float | None
    names: tuple[str, ...]
    reference: str
    make_support: Callable[[], Support] | None = None
    log_evidence_error: float = 0.0
    moments: Moments | None = None
    modes: Modes | None = None

    def bases(self) -> list[Basis]:
        """One freshly built recommended basis (of `ttvi.tt`) per coordinate.

        Raises:
            ValueError: where a tensor train in the problem's own coordinates is not recommended.
        """
        if self.make_bases is None:
            raise ValueError(
                f"Problem.bases: expected a problem with recommended bases; got {self.name!r}. "
                "Pass its `log_density` and `support` to `ttvi.fit`, or choose bases of your own."
            )
        return self.make_bases()

    @property
    def support(self) -> Support | None:
        """The support as `ttvi.fit` takes it; None for all of R^d.

        >>> from ttvi import problems
        >>> problems.get("funnel-10").support is None
        True
        >>> problems.get("egg-box").support[0].lower_bound
        0.0
        """
        return None if self.make_support is None else self.make_support()

    @property
    def fit_arguments(self) -> dict[str, Any]:
        """How `ttvi.fit` learns where the density lives: its ``dim`` or its ``support``.

        >>> from ttvi import problems
        >>> problems.get("funnel-10").fit_arguments
        {'dim': 10}
        """
        support = self.support
        return {"dim": self.dim} if support is None else {"support": support}


class Array:
    """Fixed numbers, made ready once in every dtype and on every device they are asked for."""

    def __init__(self, values: Any) -> None:
        self.values = torch.as_tensor(values, dtype=torch.float64)
        self._ready: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}

    def like(self, x: torch.Tensor) -> torch.Tensor:
        """The numbers in the dtype and on the device of `x`."""
        key = (x.dtype, x.device)
        if key not in self._ready:
            self._ready[key] = self.values.to(dtype=x.dtype, device=x.device)
        return self._ready[key]


@functools.cache
def load_data(name: str) -> dict[str, Any]:
    """The data file of that name, without its suffix; do not modify what is returned."""
    path = resources.files("ttvi.problems") / "data" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def reference_moments(data: str, quantities: Callable[[torch.Tensor], torch.Tensor]) -> Moments:
    """The reference moments in a data file, of what `quantities` computes from a problem's coordinates."""
    reference = load_data(data)["reference"]
    mean, sd = (torch.tensor(reference[key], dtype=torch.float64) for key in ("mean", "sd"))
    return Moments(mean, sd, quantities, tuple(reference["names"]))


def box_problem(
    name: str,
    log_density: Callable[[torch.Tensor], torch.Tensor],
    lower: Sequence[float],
    upper: Sequence[float],
    sizes: Sequence[int | None] | None,
    *,
    names: tuple[str, ...],
    log_evidence: float | None,
    reference: str,
    bounded: bool = False,
    log_evidence_error: float = 0.0,
    moments: Moments | None = None,
    modes: Modes | None = None,
) -> Problem:
    """A problem on the box [lower, upper] with Legendre bases, of sizes chosen by the fit where `sizes` is None.

    The box is the support where `bounded`; otherwise the density lives on R^d and the box only holds its mass.
    """
    counts = [None] * len(lower) if sizes is None else sizes
    return Problem(
        name=name,
        dim=len(lower),
        log_density=log_density,
        lower=torch.tensor(lower, dtype=torch.float64),
        upper=torch.tensor(upper, dtype=torch.float64),
        make_bases=lambda: legendre_bases(lower, upper, counts),
        log_evidence=log_evidence,
        names=names,
        reference=reference,
        make_support=(lambda: intervals(lower, upper)) if bounded else None,
        log_evidence_error=log_evidence_error,
        moments=moments,
        modes=modes,
    )


def legendre_bases(lower: Sequence[float], upper: Sequence[float], sizes: Sequence[int | None]) -> list[Basis]:
    """One Legendre basis per side of a box."""
    return [Legendre(a, b, size=n) for a, b, n in zip(lower, upper, sizes, strict=True)]


def intervals(lower: Sequence[float], upper: Sequence[float]) -> Support:
    """The support of a box: one interval per coordinate."""
    return [constraints.interval(a, b) for a, b in zip(lower, upper, strict=True)]


def circles(dim: int) -> Support:
    """The support of `dim` angles in [−π, π)."""
    return [circular(-math.pi, math.pi)] * dim


def numbered(letter: str, count: int) -> tuple[str, ...]:
    """("x1", "x2", …): names of `count` coordinates."""
    return tuple(f"{letter}{i}" for i in range(1, count + 1))
