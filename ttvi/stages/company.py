"""An answer in the company of what was tried beside it: whose draws say what it lacks, and who can give that."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import BudgetExhausted
from ..geometry.assessment import Assessment, Pooled
from ..geometry.atlas import Atlas
from ..geometry.candidates import NARROWEST, Candidate
from ..geometry.density import ChartDensity
from .plan import SPEAKS
from .search import Fitted, Search
from .tighten import far_ends_cut
from .training import WITNESSES

__all__ = ["joined"]

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)  # of another density, tried
WORTH = 0.1  # log of the effective share, that another must bring: one in other coordinates costs exact marginals
NOISE = 0.03  # of it, up to which the least share is taken: draws of the other are the worse ones
MOST = 4  # others that are asked


@dataclass(frozen=True)
class _Other:
    """A density that was tried.

    Attributes:
        label: in words.
        density: of ``x``, as it is mixed in.
        drawn: as it was drawn from, which may reach further.
        seen: its weighted draws, of ``x``.
    """

    label: str
    density: Any
    drawn: Any
    seen: Assessment

    @classmethod
    def of(cls, search: Search, candidate: Candidate) -> _Other:
        """A candidate, as a density of ``x``: it ends somewhere, since plain draws without end cost more than they give."""
        chart, seen = candidate.chart, candidate.assessment
        near = far_ends_cut(search, candidate, safe=NARROWEST)
        seen = replace(seen, points=chart.forward(seen.points)[0])
        return cls(candidate.label, ChartDensity(near, chart), ChartDensity(candidate.density, chart), seen)


def joined(search: Search, fitted: Fitted) -> Fitted:
    """The answer mixed with another density that was tried, where the draws of both say that this is more effective.

    Where a train has next to nothing, nothing of that shows in its own draws: the end of a bent density, say, which regions
    have, or a product in other coordinates.
    """
    others = _others(search, fitted)
    if not others or search.account.remaining < 2 * search.plan.checks + search.plan.certificate:
        return fitted
    try:
        with search.account.stage("train"):
            own = search.weigh(fitted.density)
            found = [(other, *_most_effective(fitted.density, own, other)) for other in others]
            other, share, gain = max(found, key=lambda row: row[2])
            if gain < WORTH:
                return fitted
            shares = torch.tensor([1 - share, share], dtype=torch.float64)
            mixture = Atlas([fitted.density, other.density], shares.log())
            together = search.weigh(mixture)
    except BudgetExhausted:
        return fitted
    search.notes.append(f"{other.label} takes {share:.0%} of the draws: it has what the answer lacks")
    return Fitted(mixture, together.ess, together.elbo, fitted.label, fitted.train, fitted.candidate)


def _others(search: Search, fitted: Fitted) -> list[_Other]:
    """What was tried and can speak, most effective first: the best of every kind in every chart, and the atlases."""
    speaking = [c for c in search.seen if c is not fitted.candidate and _speaks(c.assessment)]
    distinct: dict[str, Candidate] = {}
    for candidate in sorted(speaking, key=lambda c: c.assessment.ess, reverse=True):
        distinct.setdefault(candidate.label, candidate)
    charts = [_Other.of(search, c) for c in list(distinct.values())[:MOST]]
    atlases = [_Other("an atlas", a.density, a.drawn, a.seen) for a in search.atlases if _speaks(a.seen)]
    inside = [other for other in (*charts, *atlases) if bool(torch.isfinite(other.seen.points).all())]
    return sorted(inside, key=lambda other: other.seen.ess, reverse=True)[:MOST]


def _speaks(seen: Assessment) -> bool:
    """Whether there are enough effective draws."""
    return seen.ess > SPEAKS and seen.ess * len(seen.points) > WITNESSES


def _most_effective(answer: Any, own: Assessment, other: _Other) -> tuple[float, float]:
    """The least share of another density that makes the mixture nearly as effective as any, and the log of what it gains."""
    pooled = Pooled.of(own, answer.log_prob, other.seen, other.drawn.log_prob)
    with torch.no_grad():
        one, two = answer.log_prob(pooled.points), other.density.log_prob(pooled.points)
    alone = math.log(max(1e-300, pooled.ess(one)))
    mixed = [torch.logaddexp(one + math.log1p(-share), two + math.log(share)) for share in SHARES]
    gains = [math.log(max(1e-300, pooled.ess(log_q))) - alone for log_q in mixed]
    least = max(gains) - NOISE
    return next((share, gain) for share, gain in zip(SHARES, gains, strict=True) if gain >= least)
