"""What a train misses: found by the draws of others, built in, and bounded."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import BudgetExhausted
from ..geometry.assessment import Pooled
from ..geometry.atlas import Atlas
from ..geometry.candidates import Candidate
from ..geometry.density import ChartDensity
from ..geometry.truncation import truncated
from ..verdict import LOST_SHARE
from .certificate import unseen, unseen_by
from .plan import MOST_PER_TRAIN, NEAR, RANKS, SPEAKS
from .search import Fitted, Search, merit
from .training import lacks, speaks, telling_maxima, train_in

__all__ = ["cover", "safeguard"]

SAFETY = 0.02
AT_AN_EDGE = 0.1  # share of a good product whose draws are not all inside the density's own support
LEAST = 1e-3  # share of a product, however much of it lies where there is no density
COST = 0.005  # nats of KL(q ‖ p) that a product may add
COST_SHARE = 0.2  # of those of the train itself, if that is more
WHOLE = 0.01  # share of the draws that a train keeps with its far ends cut much further out
SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7)  # of a product, tried
WORTH = 0.03  # relative gain of the effective share that a larger one must bring
FEW = 8  # points that were missed, where others would crowd out the maxima that a train begins from
TOLERATED = 0.5  # of the effective share of a train, below which one that misses less is no better
REST = 1 / 256  # share of the product's own draws that are of the whole line


def cover(search: Search, fitted: Fitted) -> Fitted:
    """Give a train what it misses: the population, and the draws of products, are witnesses that cost nothing more.

    A train that puts nothing in a part of the space is never drawn there, so its own weights cannot tell. Where the
    witnesses find so much of the mass missing that the verdict would speak of it, the train is built again from the points that were missed.
    """
    missing, points = _missing(search, fitted)
    if missing < LOST_SHARE or fitted.candidate is None:
        return fitted
    search.notes.append(
        f"independent draws find {missing:.1%} of the mass missing in the train: built again from there"
    )
    with search.account.stage("train"):
        rank = min(search.plan.max_rank, max(RANKS[0], *fitted.candidate.density.train.ranks))
        left = search.left(0.5)
        telling = len(telling_maxima(search)) > 0
        again = train_in(
            search, fitted.candidate.chart, points[:FEW] if telling else torch.cat([points, search.cloud.points]),
            tol=search.plan.tol, max_rank=rank, budget=MOST_PER_TRAIN if left is None else left,
        )  # fmt: skip
        if again is None:
            return fitted
        search.record(again)
        rebuilt = Fitted.of(again)
        less, _ = _missing(search, rebuilt)
    # The more was missing, the less of the old effective share was one of the whole.
    worth = rebuilt.ess > TOLERATED * (1 - missing) * fitted.ess and not lacks(search, again, fitted.candidate)
    return rebuilt if less < missing and worth else fitted


def safeguard(search: Search, fitted: Fitted) -> Fitted:
    """Give a part of the draws to the product density of the same chart, where that is any good.

    A train may fall short by orders of magnitude far out, where nothing in its own draws shows it; a product with
    safe tails does not, so that the weights of the mixture are bounded and the evidence is right on average.
    """
    if fitted.candidate is None or (fitted.candidate.kind == "product" and fitted.uncut is None):
        return fitted
    chart = fitted.candidate.chart
    products = [c for c in search.seen if c.kind == "product" and c.chart is chart and c.assessment.ess > SPEAKS]
    parts, shares = [fitted.density], []
    if fitted.uncut is not None:
        parts.append(fitted.uncut)
        shares.append(WHOLE)
    if fitted.candidate.kind == "product":
        parts.append(ChartDensity(products[0].density, chart))
        shares.append(REST)
    elif products:
        own = fitted.candidate.assessment
        narrow = products[0].with_narrow_tails()
        harmless = _harmless(products[0], max(COST, COST_SHARE * (own.log_evidence - own.elbo)))
        share = _most_effective(fitted.candidate, products[0], narrow, harmless)
        rest = REST if fitted.ends is not None else 1.0
        if fitted.ends is not None:
            parts.append(ChartDensity(truncated(narrow, *fitted.ends), chart))
            shares.append((1 - rest) * share)
        parts.append(ChartDensity(narrow, chart))
        shares.append(rest * share)
        search.notes.append(f"a product density takes {share:.2%} of the draws, to bound the weights")
    if not shares:
        return fitted
    mixture = Atlas(parts, torch.tensor([1 - sum(shares), *shares], dtype=torch.float64).log())
    try:
        with search.account.stage("train"):
            seen = search.weigh(mixture)
    except BudgetExhausted:
        return fitted
    return Fitted(mixture, seen.ess, seen.elbo, fitted.label, fitted.train, fitted.candidate)


def _harmless(product: Candidate, cost: float) -> float:
    """The share of a product whose draws, which may lie between the modes, cost no more than so many nats of divergence."""
    # Of the product's draws but for the twentieth that is worst: a few far ones would forbid what most of them are good for.
    if product.assessment.ess > NEAR and bool((product.assessment.log_weights == -math.inf).any()):
        return AT_AN_EDGE  # no divergence is finite, and next to the edge a train may have nothing
    loss = product.assessment.log_evidence - product.assessment.elbo
    return min(SAFETY, max(LEAST, cost / max(1e-12, loss)))


def _most_effective(train: Candidate, product: Candidate, narrow: Any, harmless: float) -> float:
    r"""The share of a product that makes the mixture most effective, if that is more than what a harmless one does.

    Draws of both say so together: where the density ends at an edge, a train and a product fall short in different places.
    """
    pooled = Pooled.of(train.assessment, train.density.log_prob, product.assessment, product.density.log_prob)
    with torch.no_grad():
        own, narrow_ones = train.density.log_prob(pooled.points), narrow.log_prob(pooled.points)
    found = {}
    for share in (harmless, *(s for s in SHARES if s > harmless)):
        log_q = torch.logaddexp(own + math.log1p(-share), narrow_ones + math.log(share))
        found[share] = math.log(max(1e-300, pooled.ess(log_q)))
    best = max(found, key=lambda share: found[share])
    return best if found[best] > found[harmless] + WORTH else harmless


def _missing(search: Search, fitted: Fitted) -> tuple[float, Tensor]:
    """The share of the mass where a density has less than a twentieth, by the witness that finds most; and points."""
    if fitted.candidate is None or fitted.candidate.kind == "product":
        return 0.0, search.cloud.points[:0]
    share, points = unseen(search, fitted.density, fitted.candidate.assessment.log_evidence)
    by_weights = _missing_by_weights(search, fitted)
    return max((0.0 if math.isnan(share) else share, points[:32]), by_weights, key=lambda found: found[0])


def _missing_by_weights(search: Search, fitted: Fitted) -> tuple[float, Tensor]:
    """Likewise by the weighted draws of the best product that was looked at."""
    assert fitted.candidate is not None
    products = [c for c in search.seen if c.kind == "product" and speaks(c)]
    if not products:
        return 0.0, search.cloud.points[:0]
    return unseen_by(search, fitted.density, max(products, key=merit))
