"""Trains in a chart: small ones for a trial, larger ones while that pays."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import BudgetExhausted, ConvergenceWarning, EvaluationError
from ..geometry.assessment import Pooled, assess
from ..geometry.candidates import CURVATURE, Candidate, in_chart
from ..geometry.chart import MANY_COORDINATES, Chart
from ..geometry.curvature_rank import predicted_rank
from ..geometry.exploration import laplace_shares
from ..tt.density import TTDensity
from ..verdict import TRUSTED_K
from .certificate import unseen_by
from .plan import ENOUGH, MOST_PER_TRAIN, NEAR, RANKS, SPEAKS
from .search import Fitted, Search, merit

__all__ = [
    "HEAVY", "excellent", "lacks", "raise_ranks", "sharpen", "speaks", "telling_maxima", "train", "train_in", "trial", "worth_more",
]  # fmt: skip

TRIAL_RANK = 8
TRIAL_TOL = 0.1
GAIN = 1.1  # of the effective share that the next rank must bring
LESS_ERROR = 0.8  # or of the error of the train: an effective share may hang on one draw
NODES_EXPECTED = 20
MOST_EVALUATIONS = 12_000_000
MOST_RANK = 40  # that the curvature may ask for
FOR_AXES = 3  # times the rank of others, up to which a train in the user's coordinates is tried before them
LEAST_EVALUATIONS = 50
CONSIDERED = 2048  # points among which those far apart are looked for
HEAVY = 0.01  # share of the mass that a maximum must have to say something of where it is
NEARLY_ALL = 0.75  # of the mass, at which the heavy maxima together say enough; what is left may be in many light ones
INITIAL = 32  # points that a train is begun from, and a quarter as many maxima
FEW_COORDINATES = 12
FAIR = 0.9  # effective share of the best of them at which no other chart is looked at again
OVER_PRODUCT = 1.5  # how much more effective, or nearer to one, a trial must be than the product in the same chart
EDGE = 0.003  # share of a product's draws of density zero, from which on there is an edge inside the support
ALMOST = 0.5  # effective share of a product from which on a train is tried again where it had too few evaluations
AGAIN = 10  # times as many
RARE = 0.02  # effective share of a product that says nothing
EXCELLENT = 0.99  # effective share at which a trial, or a product, is the answer
STRAY = 0.03  # nats of divergence that a good train may owe to draws of next to no density
SHARPER = 1 / 3  # of the tolerance
RIVAL = 3.0  # times less effective than the best
WORTH_MORE = 0.15  # effective share of a train in many coordinates from which on higher ranks are tried
WITNESSES = 200  # effective draws of a density from which on it can speak for the target
A_MODE = 0.1  # share of the mass that no train may lack in order to be called better
OFF = 0.8  # error of a train of the first rank from which on no higher one is tried: there are regions to look for
SIMILAR = 1.5  # times the least error of trains of the first rank, up to which higher ranks are tried in a chart


def train_in(
    search: Search,
    chart: Chart,
    points: Tensor,
    *,
    tol: float,
    max_rank: int,
    budget: int,
    log_density: Callable[[Tensor], Tensor] | None = None,
) -> Candidate | None:
    """A train in a chart and its weights; None where the budget does not allow one, or the chart has jumps.

    Args:
        search: the fit.
        chart: whose working coordinates the train has.
        points: in ``t``; the first of them start the pivots.
        tol, max_rank: of the train.
        budget: evaluations, before those of the weights; no more than are left.
        log_density: of the working coordinates; the target's without it.
    """
    function = log_density or in_chart(search.target, chart)
    budget = int(min(budget, search.account.remaining - search.plan.checks))
    if budget < LEAST_EVALUATIONS or not chart.smooth:
        return None
    # Other maxima are nothing to one region; and the densest points of a population are no maxima, but the inside of a neck.
    maxima = log_density is None and search.cloud.precisions is not None
    telling = telling_maxima(search)
    known = telling if maxima and len(telling) else search.cloud.modes[: INITIAL // 4 if maxima else 0]
    found = chart.from_t(points)[0]
    init = torch.cat([far_apart(found[torch.isfinite(found).all(1)], INITIAL), chart.from_t(known)[0]])
    init = init[torch.isfinite(init).all(1)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            density = TTDensity.fit(
                function, chart.bases(), tol=tol, max_rank=max_rank, budget=budget, generator=search.generator,
                init_points=init if len(init) else None,
            )  # fmt: skip
        return Candidate(chart, density, assess(density, function, search.plan.checks, search.generator), "train")
    except (BudgetExhausted, EvaluationError, torch.linalg.LinAlgError) as failure:
        search.notes.append(f"{chart.label} train failed: {failure}")
        return None


def far_apart(points: Tensor, count: int) -> Tensor:
    """Half of so many points are the first ones, half far from each other: the thin end of a bent density is among these.

    Args:
        points: shape (N, m).
        count: how many; all of them where there are no more.

    References:
        Gonzalez, Clustering to minimize the maximum intercluster distance (1985).

    >>> far_apart(torch.tensor([[0.0], [0.1], [0.2], [0.3], [5.0]]), 2).tolist()
    [[0.0], [5.0]]
    """
    if len(points) <= count:
        return points
    chosen = list(range(count - count // 2))
    scaled = points[:CONSIDERED] / points.std(0).clamp_min(1e-12)
    distance = torch.cdist(scaled, scaled[chosen]).amin(1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (scaled - scaled[chosen[-1]]).norm(dim=1))
    return points[chosen]


def trial(search: Search, candidate: Candidate) -> Candidate | None:
    """A train of small rank in the chart of a candidate."""
    trained = train_in(
        search, candidate.chart, _population(search, candidate), tol=TRIAL_TOL, max_rank=min(TRIAL_RANK, search.plan.max_rank),
        budget=search.plan.trial(search.coordinates.dim),
    )  # fmt: skip
    if trained is not None:
        search.record(trained)
    return trained


def excellent(search: Search, candidate: Candidate) -> bool:
    """Whether nothing is left to gain: hardly any draw is of no use, none of a product either, and a train has come to its end."""
    a = candidate.assessment
    return (
        _status(candidate) in ("", "converged")
        and a.ess > EXCELLENT
        and a.divergence < STRAY
        and a.pareto_k < TRUSTED_K
        and _seen_by_product(search, candidate) > EXCELLENT
    )


def _seen_by_product(search: Search, trained: Candidate) -> float:
    """The effective share of a train by its own draws and those of the product in the same chart; one where there is none."""
    for c in search.seen:
        if trained.kind == "train" and c.kind == "product" and c.chart is trained.chart and c.assessment.ess > SPEAKS:
            pooled = Pooled.of(trained.assessment, trained.density.log_prob, c.assessment, c.density.log_prob)
            return pooled.ess(trained.density.log_prob(pooled.points))
    return 1.0


def train(search: Search, chosen: Candidate) -> Fitted:
    """A train of the first rank in the chosen chart, or in the one where the curvature promises that it can be paid for."""
    if excellent(search, chosen):
        return Fitted.of(chosen)
    if (share := _outside(search)) > EDGE:
        search.notes.append(
            f"{share:.1%} of a product's draws have density zero: an edge, which no basis size resolves"
        )
        search.most_per_train = AGAIN * search.plan.trial(search.coordinates.dim)
    starts = _affordable_charts(search, chosen)
    if not starts:
        return _raised(search, chosen, ())
    found = _trained_from(search, chosen, starts[0])
    axes = [c for c in starts[1:2] if c.chart.axis_aligned]
    if found.ess >= NEAR or not axes:
        return found
    return max(found, _raised(search, axes[0], RANKS[:1]), key=lambda f: f.ess)


def _trained_from(search: Search, chosen: Candidate, start: Candidate) -> Fitted:
    """The best train in the chart of ``start``, or what was chosen where none is better."""
    if start is chosen and search.plan.budget is None and search.coordinates.dim <= FEW_COORDINATES:
        return _best_of_rivals(search, chosen)
    if not _beats_product(search, start):
        # A trial that ended for want of evaluations says nothing where the product is nearly all there is.
        near = chosen.kind == "product" and chosen.assessment.ess > ALMOST
        again = AGAIN * search.plan.trial(search.coordinates.dim)
        return _raised(search, chosen, RANKS[:1] if near else (), most=again)
    trained = _raised(search, start, RANKS[:1])
    return Fitted.of(chosen) if start is not chosen and trained.ess < chosen.assessment.ess else trained


def _outside(search: Search) -> float:
    """The share of draws of density zero, of the product that has least of them."""
    products = [c.assessment.log_weights for c in search.seen if c.kind == "product"]
    return min((float((weights == -math.inf).double().mean()) for weights in products), default=0.0)


def _best_of_rivals(search: Search, chosen: Candidate) -> Fitted:
    """The best of the charts that came near; where that is not enough, of all: a trial may end before a train gets there.

    Where next to nothing came of it, the target is no matter of charts: there are regions to look for first.
    """
    rivals = _rivals(search, chosen)
    best = _best_in_turn(search, rivals)
    if best.ess >= FAIR or best.ess < RARE:
        return best
    known = {rival.chart.label for rival in rivals}
    others = {c.chart.label: c for c in sorted(search.seen, key=merit) if c.chart.label not in known}
    modes, precisions = search.cloud.modes, search.cloud.precisions
    ordered = list(others.values())
    if precisions is not None and len(modes):
        ordered.sort(key=lambda c: predicted_rank(c.chart, modes, precisions, TRIAL_TOL))
    if not ordered:
        return best
    best = max(best, _best_in_turn(search, ordered), key=lambda f: f.ess)
    if best.ess >= ENOUGH:
        return best
    # A rank of 12 may rank charts wrongly by their weights; what the trains themselves err by says which are out of the question.
    errors = {c.chart.label: _error(search, c.chart) for c in (*ordered, *rivals)}
    most = min(OFF, SIMILAR * min(errors.values()))
    near = [c for c in (*ordered, *rivals) if errors[c.chart.label] < most]
    return max(best, _best_in_turn(search, near, RANKS[2:3]), key=lambda f: f.ess) if near else best


def _error(search: Search, chart: Chart) -> float:
    """Of the last train in a chart."""
    return next(
        (float(c.density.info.error) for c in search.seen[::-1] if c.chart is chart and c.kind == "train"), math.inf
    )


def _best_in_turn(search: Search, candidates: Sequence[Candidate], ranks: Sequence[int] = RANKS[:1]) -> Fitted:
    """Trains of those ranks in one chart after the other until one is enough; the best."""
    found: list[Fitted] = []
    for candidate in candidates:
        found.append(_raised(search, candidate, ranks))
        if found[-1].ess >= ENOUGH:
            break
    return max(found, key=lambda f: f.ess)


def _rivals(search: Search, chosen: Candidate) -> list[Candidate]:
    """The best candidate of every chart that comes near the best of all: between these only a real train can tell."""
    best: dict[str, Candidate] = {}
    for candidate in sorted(search.seen, key=merit):
        best[candidate.chart.label] = candidate
    if chosen.kind == "train" and chosen.assessment.ess > ENOUGH:
        return [chosen]
    return [c for c in best.values() if merit(c) > merit(chosen) - math.log(RIVAL)]


def worth_more(search: Search, fitted: Fitted) -> bool:
    """Whether higher ranks promise more than a flow does: the train is already near, or there are few coordinates."""
    if fitted.ess >= ENOUGH or fitted.candidate is None or fitted.train is None:
        return False
    # A train begun from maxima alone holds them from its first ranks on, and what is around them with the next ones.
    rises = _status(fitted.candidate) == "rank-limited" and len(telling_maxima(search)) > 0
    least = RARE if rises else WORTH_MORE
    near = fitted.candidate.kind == "train" and fitted.ess > least and _beats_product(search, fitted.candidate)
    return near or search.coordinates.dim <= FEW_COORDINATES


def raise_ranks(search: Search, fitted: Fitted) -> Fitted:
    """Trains of higher ranks in the same chart while that pays; the best of them if it is better."""
    assert fitted.candidate is not None
    # A train grows to the rank it needs: in few coordinates the highest that can be paid for at once.
    few = search.coordinates.dim <= FEW_COORDINATES and search.plan.budget is None
    raised = _raised(search, fitted.candidate, RANKS[2:] if few else RANKS[1:])
    better = raised.candidate is not fitted.candidate and _better(search, raised.candidate, fitted.candidate)
    return raised if better else fitted


def lacks(search: Search, train: Candidate, other: Candidate) -> bool:
    """Whether a train lacks what makes a mode, by the draws of another, and more than that lacks of its own."""
    missing = unseen_by(search, Fitted.of(train).density, other)[0] if speaks(other) else 0.0
    if missing < A_MODE:
        return False
    return not speaks(train) or missing > unseen_by(search, Fitted.of(other).density, train)[0]


def speaks(witness: Candidate) -> bool:
    """Whether there are enough effective draws of a density to say where the target has its mass."""
    return witness.assessment.ess * len(witness.assessment.points) > WITNESSES


def _better(search: Search, new: Candidate | None, old: Candidate) -> bool:
    """By what is effective, which does not tell of a mode that is lost; of two trains each tells of the other."""
    if new is None:
        return False
    if new.kind == old.kind == "train" and lacks(search, new, old) != lacks(search, old, new):
        return lacks(search, old, new)
    return merit(new) > merit(old)


def sharpen(search: Search, fitted: Fitted) -> Fitted:
    """A train of a smaller tolerance where a good one spends draws on places of next to no density, or has too little at a thin end.

    The error of a train is spread like noise. Of an effective share it takes as little as its square, of a divergence
    KL(q ‖ p) that square times all the nats by which the density falls off; and where a curved density is thin, it may be all there
    is, so that a few draws there decide the weights.
    """
    candidate = fitted.candidate
    if candidate is None or fitted.train is None:
        return fitted
    spends = fitted.ess >= ENOUGH and candidate.assessment.divergence >= STRAY
    # A train that has converged errs by its tolerance: where less is effective than that leaves, it is for a few draws.
    few = candidate.assessment.pareto_k > TRUSTED_K and fitted.ess >= NEAR and _status(candidate) == "converged"
    thin = few and search.coordinates.dim <= FEW_COORDINATES
    if not (spends or thin):
        return fitted
    left = search.left(0.6)
    rank = next((r for r in RANKS if r > max(fitted.train.train.ranks)), RANKS[-1])
    with search.account.stage("train"):
        sharper = train_in(
            search, candidate.chart,
            search.cloud.points if thin else _population(search, candidate),  # its own draws know nothing of an end it lacks
            tol=SHARPER * search.plan.tol, max_rank=min(rank, search.plan.max_rank),
            budget=min(_most(search), 2 * search.account.num_evaluations) if left is None else left,
        )  # fmt: skip
    if sharper is None:
        return fitted
    search.record(sharper)
    better = sharper.assessment.divergence < candidate.assessment.divergence and merit(sharper) >= merit(candidate)
    return Fitted.of(sharper) if better else fitted


def _raised(search: Search, best: Candidate, ranks: Sequence[int], *, most: int | None = None) -> Fitted:
    """Raise the ranks in the chart of a candidate while that pays; without a budget no train takes more than ``most``."""
    result = best
    error = math.inf if best.kind == "product" else float(best.density.info.error)
    with search.account.stage("train"):
        for rank in sorted({min(r, search.plan.max_rank) for r in ranks}):
            if rank <= _rank_limit(best):
                continue
            affordable = _affordable(best.chart, rank) or len(telling_maxima(search)) > 0
            if result is not best and (_status(result) == "converged" or not affordable):
                break
            left = search.left(0.6)
            trained = train_in(
                search, best.chart, _population(search, best), tol=search.plan.tol, max_rank=rank,
                budget=(most or _most(search)) if left is None else left,
            )  # fmt: skip
            if trained is None:
                break
            search.record(trained)
            before = result.assessment.ess
            done = result is best and _status(trained) == "converged" and not lacks(search, trained, result)
            if done or _better(search, trained, result):
                result = trained
            if _status(trained) != "rank-limited":
                break
            error, last = float(trained.density.info.error), error
            gained = trained.assessment.ess >= GAIN * before or error < LESS_ERROR * last
            if trained.assessment.ess >= ENOUGH or (rank > RANKS[0] and not gained):
                break
    return Fitted.of(result)


def _affordable_charts(search: Search, best: Candidate) -> list[Candidate]:
    """The candidates to train in: the best one, or those whose curvature promises a low rank, lowest first.

    A trial may end for want of evaluations long before the rank of a chain is reached; the curvature knows better. It
    speaks of lines, and for one maximum only: chains with walls between their halves are low in rank in the user's own coordinates
    alone, which therefore go first unless others promise far less.
    """
    if search.coordinates.dim <= FEW_COORDINATES or (best.kind == "train" and best.assessment.ess > NEAR):
        return [best]
    cloud = search.cloud
    if cloud.precisions is None or bool((search.coordinates.circle & search.coordinates.following).any()):
        if best.kind == "train":
            return [best]
        trains = sorted((c for c in search.seen if c.kind == "train"), key=merit)[-1:]
        return [c for c in trains if best.chart.smooth or merit(c) > merit(best) - math.log(RIVAL)]
    # The axes of the curvature have the rank one by the curvature, whatever the density does further out.
    seen = (c for c in search.seen if c.chart is best.chart or c.chart.label != CURVATURE)
    distinct = {c.chart.label: c for c in sorted(seen, key=merit)}
    ranks = {label: predicted_rank(c.chart, cloud.modes, cloud.precisions, TRIAL_TOL) for label, c in distinct.items()}
    search.notes.append(
        "ranks that the curvature asks for: " + ", ".join(f"{label} {rank}" for label, rank in ranks.items())
    )
    low = [label for label, rank in ranks.items() if rank <= MOST_RANK]
    low.sort(key=lambda label: ranks[label] / (FOR_AXES if distinct[label].chart.axis_aligned else 1))
    return [distinct[label] for label in low]


def _beats_product(search: Search, candidate: Candidate) -> bool:
    """Whether ranks have helped in this chart so far; many coordinates that are already apart are a matter for a flow."""
    chart = candidate.chart
    if chart.axis_aligned or search.coordinates.dim <= FEW_COORDINATES:
        return True
    products = [c.assessment.ess for c in search.seen if c.chart is chart and c.kind == "product"]
    trains = [c.assessment.ess for c in search.seen if c.chart is chart and c.kind == "train"]
    best_train, best_product = max(trains, default=0.0), max(products, default=0.0)
    nearer = OVER_PRODUCT * (1 - best_train) < 1 - best_product
    return nearer or best_train > OVER_PRODUCT * best_product or best_product < RARE


def _status(candidate: Candidate) -> str:
    """How the fit of a train ended; empty for a product."""
    return candidate.density.info.status if candidate.kind == "train" else ""


def _rank_limit(candidate: Candidate) -> int:
    """The rank that a train fell short at; zero where it did not."""
    return max(candidate.density.train.ranks) if _status(candidate) == "rank-limited" else 0


def _most(search: Search) -> int:
    """Evaluations of one train where there is no budget: a chain of many coordinates needs them, or a ridge in few, of many nodes."""
    if search.most_per_train is not None:
        return search.most_per_train
    return MOST_PER_TRAIN * (1 if FEW_COORDINATES < search.coordinates.dim <= MANY_COORDINATES else 2)


def _affordable(chart: Chart, rank: int) -> bool:
    """Whether a train of that rank stays below what a fit without budget may cost."""
    return 10 * NODES_EXPECTED * chart.dim * rank**2 <= MOST_EVALUATIONS


def telling_maxima(search: Search) -> Tensor:
    """The local maxima that say enough of where the mass is, shape (K, m).

    These are several, of a half one or more, that have nearly all of it, by Laplace's method.

    In many coordinates a train then begins from nothing else: every point more is a fiber in every sweep, and where the rank
    is short of what the points ask for, the train is of the points and not of the density.
    """
    cloud = search.cloud
    if search.coordinates.dim <= FEW_COORDINATES or cloud.precisions is None or not len(cloud.modes):
        return cloud.modes[:0]
    shares = laplace_shares(cloud.mode_values, cloud.precisions)
    heavy = shares > HEAVY
    if not search.whole:
        # The fewest: of a half, lesser ones beside these, or none told of, cost a train its convergence.
        order = shares.argsort(descending=True)
        heavy[order[1 + int((shares[order].cumsum(0) < NEARLY_ALL).sum()) :]] = False
    least = 2 if search.whole else 1
    telling = least <= int(heavy.sum()) <= INITIAL and float(shares[heavy].sum()) > NEARLY_ALL
    return cloud.modes[heavy] if telling else cloud.modes[:0]


def _population(search: Search, candidate: Candidate) -> Tensor:
    """Points to start from: by the weights of a candidate if they are worth anything, else the explored ones."""
    if len(telling_maxima(search)):
        return search.cloud.points[:0]
    a = candidate.assessment
    if a.ess * len(a.points) > 300:
        return candidate.chart.to_t(a.population(512, search.generator)[0])[0]
    return search.cloud.points
