"""The value object that every named problem is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..tt.basis import Basis, Legendre

__all__ = ["Problem", "box_problem", "legendre_bases", "numbered"]


@dataclass(frozen=True)
class Problem:
    """A target density with what is known about it.

    Attributes:
        name: the name under which `ttvi.problems.get` returns it, "ginzburg-landau-32".
        dim: number of coordinates d.
        log_density: unnormalised log p̃ (nats), (batch, d) -> (batch,); any floating dtype, any device.
        lower: lower corner of a box that holds all but a negligible mass, shape (d,), or None where a coordinate is
            not on an interval.
        upper: its upper corner, shape (d,), or None.
        make_bases: builds the recommended bases; called by `bases`.
        log_evidence: log ∫ p̃ (nats), computed independently of ttvi, or None where it is not known.
        names: one name per coordinate.
        reference: where the problem and its log evidence come from.
    """

    name: str
    dim: int
    log_density: Callable[[torch.Tensor], torch.Tensor]
    lower: torch.Tensor | None
    upper: torch.Tensor | None
    make_bases: Callable[[], list[Basis]]
    log_evidence: float | None
    names: tuple[str, ...]
    reference: str

    def bases(self) -> list[Basis]:
        """One freshly built recommended basis (of `ttvi.tt`) per coordinate."""
        return self.make_bases()


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
) -> Problem:
    """A problem on the box [lower, upper] with Legendre bases, of sizes chosen by the fit where `sizes` is None."""
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
    )


def legendre_bases(lower: Sequence[float], upper: Sequence[float], sizes: Sequence[int | None]) -> list[Basis]:
    """One Legendre basis per side of a box."""
    return [Legendre(a, b, size=n) for a, b, n in zip(lower, upper, sizes, strict=True)]


def numbered(letter: str, count: int) -> tuple[str, ...]:
    """("x1", "x2", …): names of `count` coordinates."""
    return tuple(f"{letter}{i}" for i in range(1, count + 1))
