"""The stages of a fit, each with its share of the budget and its reasons: explore, choose, train, split, polish, certify."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .diagnostics import WeightedDraws
from .errors import BudgetExhausted, ConvergenceWarning, EvaluationError
from .evaluation import Evaluations
from .flow import train as flow_training
from .geometry.assessment import Assessment, assess
from .geometry.atlas import Atlas, Partition
from .geometry.candidates import Candidate, charts, in_chart, look, whitened
from .geometry.chart import Chart
from .geometry.coordinates import Coordinates, Pullback
from .geometry.curvature_rank import predicted_rank
from .geometry.density import ChartDensity, StretchedDensity
from .geometry.exploration import Cloud, Exploration, explore, unexplored
from .geometry.product import product_density
from .tt.density import TTDensity
from .verdict import MODE_GAP, CensusMode

__all__ = ["Plan", "Search"]

RANKS = (12, 24, 48, 96)
TRIAL_RANK = 8
TRIAL_TOL = 0.1
ENOUGH = 0.97  # effective share at which nothing more is tried
GAIN = 1.1  # of the effective share that the next rank must bring
CHECKS = 4096
NODES_EXPECTED = 20
MOST_EVALUATIONS = 12_000_000
MOST_PER_TRAIN = 5_000_000
MOST_RANK = 40
MISSED = 0.01
SAFETY = 0.02
GUARD_ESS = 0.05
WITNESSES = 200  # effective draws of a product from which on it can speak for the target
TRIAL_STEPS = 300
FLOW_STEPS = 2500
POOL = 65_536
NEAR = 0.3  # effective share from which on a train is worth polishing whatever the others do


@dataclass(frozen=True)
class Plan:
    """Who may spend how much; None is no bound.

    Attributes:
        budget: in all.
        tol: relative tolerance of the trains.
        max_rank: cap on their ranks.
        geometry: "auto" or the name of a chart.
        flow: whether a flow may polish.
        certificate: draws of the certificate.
    """

    budget: int | None
    tol: float
    max_rank: int
    geometry: str
    flow: bool
    certificate: int

    def share(self, part: float, least: int = 1) -> int | None:
        """A part of the budget."""
        return None if self.budget is None else max(least, int(part * self.budget))

    @property
    def checks(self) -> int:
        """Draws of one look at a density."""
        return CHECKS if self.budget is None else max(64, min(CHECKS, self.budget // 60))

    def trial(self, dim: int) -> int:
        """Evaluations of a trial."""
        free = max(30_000, 6000 * dim)
        return free if self.budget is None else max(200, min(free, self.budget // 12))


@dataclass
class Fitted:
    """A density of ``x`` and what its weights say.

    Attributes:
        density: of ``x``.
        ess: effective share of fresh draws.
        elbo: trimmed mean log weight.
        label: in words.
        train: the train behind it, if there is one.
        candidate: the chart and train that it is, or that a mixture is made around; None for an atlas or a flow.
    """

    density: Any
    ess: float
    elbo: float
    label: str
    train: TTDensity | None = None
    candidate: Candidate | None = None


@dataclass
class Search:
    """One fit: the account, the coordinates, and what was learnt on the way."""

    account: Evaluations
    coordinates: Coordinates
    plan: Plan
    generator: torch.Generator
    gradient: bool
    notes: list[str] = field(default_factory=list)
    tried: list[dict[str, Any]] = field(default_factory=list)
    cloud: Cloud | None = None
    seen: list[Candidate] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.target = Pullback(
            self.coordinates, self.account, self.account.value_and_gradient if self.gradient else None
        )

    # -- where the mass is -------------------------------------------------------------------------------------------

    def explore(self, init: Tensor | None, prior: Tensor | None) -> Cloud:
        """Find the mass; a fifth of the budget."""
        limit = self.plan.share(0.2)
        settings = Exploration.within(limit, self.coordinates.dim, self.gradient)
        with self.account.stage("exploration"), self._limited(limit):
            try:
                cloud = explore(self.target, settings, self.generator, init=init, prior=prior)
            except BudgetExhausted:
                cloud = unexplored(self.coordinates, self.generator, init=init, prior=prior)
                self.cloud, self.notes = cloud, [*self.notes, *cloud.notes]
                raise
        if not len(cloud.points) or not bool(torch.isfinite(cloud.values).any()):
            raise EvaluationError(
                "fit: expected a log-density that is finite somewhere; every start had zero density. "
                "Pass init_points= inside the support of the density, or a tighter support=."
            )
        finite = torch.isfinite(cloud.values)
        self.cloud = Cloud(
            cloud.points[finite], cloud.values[finite], cloud.modes, cloud.mode_values, cloud.precisions, cloud.beta,
            cloud.log_evidence, cloud.notes,
        )  # fmt: skip
        self.notes += cloud.notes
        return self.cloud

    # -- which coordinates ---------------------------------------------------------------------------------------------

    def choose(self) -> Candidate:
        """Look at every chart, try a small train in the promising ones, and say which and why."""
        assert self.cloud is not None
        points = self.cloud.points
        found = charts(self.coordinates, points, self.plan.geometry)
        with self.account.stage("geometry"):
            looked = [seen for chart in found if (seen := self._look(chart, points)) is not None]
            if not looked:
                raise BudgetExhausted("nothing could be looked at")
            looked = [self._refined(candidate) for candidate in looked]
            trials = [trial for candidate in looked if (trial := self._trial(candidate)) is not None]
        best = max(looked + trials, key=_merit)
        self.notes.append(
            f"{best.chart.label} coordinates: {best.kind} with an effective share of {best.assessment.ess:.2g} "
            f"(tried {', '.join(f'{c.label} {c.assessment.ess:.2g}' for c in looked + trials)})"
        )
        return best

    def _look(self, chart: Chart, points: Tensor) -> Candidate | None:
        try:
            candidate = look(self.target, chart, points, self.plan.checks, self.generator)
        except BudgetExhausted:
            return None
        self._record(candidate)
        return candidate

    def _record(self, candidate: Candidate) -> None:
        self.tried.append(candidate.row())
        self.seen.append(candidate)

    def _refined(self, candidate: Candidate) -> Candidate:
        """A mixing chart fitted anew to what its own weights say, while that helps."""
        if candidate.chart.axis_aligned:
            return candidate
        for _ in range(3):
            a = candidate.assessment
            if a.ess > 0.6 or a.ess * len(a.points) < 30:
                break
            count = 4 * self.plan.checks if a.ess * len(a.points) > 200 else self.plan.checks
            try:
                a = assess(candidate.density, in_chart(self.target, candidate.chart), count, self.generator)
            except BudgetExhausted:
                break
            # Repeated points would pass for evidence: no more of them than are effective.
            number = int(min(4096, max(512, a.ess * len(a.points))))
            points = candidate.chart.to_t(a.population(number, self.generator)[0])[0]
            if candidate.chart.label == "triangular":
                chart, _ = Chart.triangular(self.coordinates, points, candidate.chart.order, label="triangular")
            else:
                chart = whitened(self.coordinates, points)
            better = self._look(chart, points)
            if better is None or _merit(better) < _merit(candidate):
                break
            candidate = better
        return candidate

    def _trial(self, candidate: Candidate) -> Candidate | None:
        """A train of small rank in the chart of a candidate."""
        trained = self._train(
            candidate.chart, self._population(candidate), TRIAL_TOL, TRIAL_RANK, self.plan.trial(self.coordinates.dim)
        )
        if trained is not None:
            self._record(trained)
        return trained

    def _population(self, candidate: Candidate) -> Tensor:
        assert self.cloud is not None
        if candidate.assessment.ess * len(candidate.assessment.points) > 300:
            return candidate.chart.to_t(candidate.assessment.population(512, self.generator)[0])[0]
        return self.cloud.points

    def fallback(self) -> Fitted:
        """The product density of the population: what is left when nothing else could be paid for."""
        assert self.cloud is not None
        chart = Chart.axis(self.coordinates, self.cloud.points)
        density = product_density(chart, chart.from_t(self.cloud.points)[0])
        self.notes.append("the budget allowed no more than the exploration")
        return Fitted(ChartDensity(density, chart), 0.0, self.cloud.log_evidence, "product of marginals", density)

    # -- the train -----------------------------------------------------------------------------------------------------

    def _train(
        self,
        chart: Chart,
        points: Tensor,
        tol: float,
        max_rank: int,
        budget: int | None,
        log_density: Callable[[Tensor], Tensor] | None = None,
    ) -> Candidate | None:
        """A train in a chart and its weights; None where the budget does not allow one."""
        function = log_density or in_chart(self.target, chart)
        left = self.account.remaining - self.plan.checks
        budget = (
            int(min(budget if budget is not None else math.inf, left))
            if min(budget or math.inf, left) < math.inf
            else None
        )
        if budget is not None and budget < 50:
            return None
        init = chart.from_t(points[:32])[0]
        init = init[torch.isfinite(init).all(1)]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                density = TTDensity.fit(
                    function, chart.bases(), tol=tol, max_rank=max_rank, budget=budget, generator=self.generator,
                    init_points=init if len(init) else None,
                )  # fmt: skip
            return Candidate(chart, density, assess(density, function, self.plan.checks, self.generator), "train")
        except (BudgetExhausted, EvaluationError, torch.linalg.LinAlgError) as failure:
            self.notes.append(f"{chart.label} train failed: {failure}")
            return None

    def train(self, best: Candidate, ranks: Sequence[int]) -> Fitted:
        """Raise the ranks in the chosen chart while that pays."""
        result = best
        with self.account.stage("train"):
            for rank in sorted({min(r, self.plan.max_rank) for r in ranks}):
                if result.kind == "train" and result.density.info.status == "converged" and result is not best:
                    break
                if result is not best and not self._affordable(best.chart, rank):
                    break
                left = MOST_PER_TRAIN if self.plan.budget is None else int(0.6 * self.account.remaining)
                trained = self._train(best.chart, self._population(best), self.plan.tol, rank, left)
                if trained is None:
                    break
                self._record(trained)
                before = result.assessment.ess
                if _merit(trained) > _merit(result) or (result is best and trained.density.info.status == "converged"):
                    result = trained
                if trained.density.info.status != "rank-limited":
                    break
                if trained.assessment.ess >= ENOUGH or (rank > RANKS[0] and trained.assessment.ess < GAIN * before):
                    break
        return self._fitted(result)

    def affordable_chart(self, best: Candidate) -> Candidate | None:
        """The candidate to train in: the best one, or the one whose curvature promises the lowest rank; None if none does.

        A trial may end for want of evaluations long before the rank of a chain is reached; the curvature knows better.
        """
        assert self.cloud is not None
        if self.coordinates.dim <= 12 or (best.kind == "train" and best.assessment.ess > NEAR):
            return best
        if self.cloud.precisions is None:
            return (
                best
                if best.kind == "train"
                else max((c for c in self.seen if c.kind == "train"), key=_merit, default=None)
            )
        distinct = {c.chart.label: c for c in sorted(self.seen, key=_merit)}
        ranks = {
            label: predicted_rank(c.chart, self.cloud.modes, self.cloud.precisions, TRIAL_TOL)
            for label, c in distinct.items()
        }
        self.notes.append(
            "ranks that the curvature asks for: " + ", ".join(f"{label} {rank}" for label, rank in ranks.items())
        )
        label = min(ranks, key=lambda name: ranks[name])
        return distinct[label] if ranks[label] <= MOST_RANK else None

    def worth_more(self, fitted: Fitted) -> bool:
        """Whether higher ranks promise more than a flow does: the train is already near, or there are few coordinates."""
        if fitted.candidate is None or fitted.train is None:
            return False
        near = fitted.candidate.kind == "train" and fitted.ess > 0.15
        return near or self.coordinates.dim <= 12

    def _affordable(self, chart: Chart, rank: int) -> bool:
        """Whether a train of that rank stays below what a fit without budget may cost."""
        return 10 * NODES_EXPECTED * chart.dim * rank**2 <= MOST_EVALUATIONS

    def _fitted(self, candidate: Candidate) -> Fitted:
        a = candidate.assessment
        return Fitted(
            ChartDensity(candidate.density, candidate.chart),
            a.ess,
            a.elbo,
            candidate.label,
            candidate.density,
            candidate,
        )

    def cover(self, fitted: Fitted) -> Fitted:
        """Give a train what it misses: draws of the products that were looked at are witnesses that cost nothing more.

        A train that puts nothing in a part of the space is never drawn there, so its own weights cannot tell. Where the
        witnesses find more than a hundredth of the mass missing, the train is built again from the points that were missed.
        """
        missing, points = self._missing(fitted)
        if missing < MISSED or fitted.candidate is None:
            return fitted
        self.notes.append(
            f"independent draws find {missing:.1%} of the mass missing in the train: built again from there"
        )
        with self.account.stage("train"):
            rank = max(RANKS[0], min(self.plan.max_rank, max(fitted.candidate.density.train.ranks)))
            left = MOST_PER_TRAIN if self.plan.budget is None else int(0.5 * self.account.remaining)
            again = self._train(fitted.candidate.chart, points, self.plan.tol, rank, left)
            if again is not None:
                self._record(again)
                rebuilt = self._fitted(again)
                less, _ = self._missing(rebuilt)
                if less < missing:
                    fitted, missing = rebuilt, less
        return fitted

    def safeguard(self, fitted: Fitted) -> Fitted:
        """Give a part of the draws to the product density of the same chart, where that is any good.

        A train may fall short by orders of magnitude far out, where nothing in its own draws shows it; a product with
        safe tails does not, so that the weights of the mixture are bounded and the evidence is right on average.
        """
        if fitted.candidate is None or fitted.candidate.kind == "product":
            return fitted
        chart = fitted.candidate.chart
        products = [c for c in self.seen if c.kind == "product" and c.chart is chart and c.assessment.ess > GUARD_ESS]
        if not products:
            return fitted
        mixture = Atlas(
            [fitted.density, ChartDensity(products[0].density, chart)],
            torch.tensor([1 - SAFETY, SAFETY], dtype=torch.float64).log(),
        )
        try:
            with self.account.stage("train"):
                seen = self.weigh(mixture)
        except BudgetExhausted:
            return fitted
        self.notes.append(f"a product density takes {SAFETY:.0%} of the draws, to bound the weights")
        return Fitted(mixture, seen.ess, seen.elbo, fitted.label, fitted.train, fitted.candidate)

    def _missing(self, fitted: Fitted) -> tuple[float, Tensor]:
        """The share of the mass, by the products' weighted draws, where a density has less than a twentieth; and points."""
        nothing = torch.zeros(0, self.coordinates.dim, dtype=torch.float64)
        products = [
            c for c in self.seen if c.kind == "product" and c.assessment.ess * len(c.assessment.points) > WITNESSES
        ]
        if fitted.candidate is None or fitted.candidate.kind == "product" or not products:
            return 0.0, nothing
        witness = max(products, key=_merit)
        a = witness.assessment
        with torch.no_grad():
            t, inner = witness.chart.to_t(a.points)
            x, outer = self.coordinates.to_x(t)
            value = a.log_weights + witness.density.log_prob(a.points) - inner - outer
            gap = value - fitted.density.log_prob(x) - a.log_evidence
        weights = torch.softmax(a.log_weights, 0)
        missed = (gap > MODE_GAP) & (weights > 0)
        worst = torch.where(missed, weights, 0.0).argsort(descending=True)[: int(missed.sum())][:32]
        return float(weights[missed].sum()), t[worst]

    def lost_modes(self, fitted: Fitted) -> bool:
        """Whether a local maximum of some mass is missing from a density."""
        census = self.census(
            fitted.density, fitted.candidate.assessment.log_evidence if fitted.candidate else fitted.elbo
        )
        return any(mode.lost for mode in census)

    # -- many charts -----------------------------------------------------------------------------------------------------

    def split(self, *, needed: bool = False) -> Fitted | None:
        """A train for every region around a maximum, in local coordinates; ``needed`` spares it the proof that it pays."""
        assert self.cloud is not None
        with self.account.stage("atlas"):
            try:
                partition = Partition.fit(
                    self.target, self.cloud.points, self.cloud.modes, self.cloud.precisions,
                    32 if self.plan.budget is None else max(2, min(32, self.plan.budget // 2000)),
                )  # fmt: skip
                if partition is None:
                    return None
                return self._atlas(partition) if needed or self._promising(partition) else None
            except BudgetExhausted:
                self.notes.append("the budget ended while regions were looked for")
                return None

    def _atlas(self, partition: Partition) -> Fitted | None:
        assert self.cloud is not None
        parts: list[ChartDensity] = []
        log_masses: list[float] = []
        share = MOST_PER_TRAIN // 5 if self.plan.budget is None else int(0.6 * self.account.remaining / partition.size)
        for k in range(partition.size):
            chart = self._local_chart(partition, k)

            def region(w: Tensor, chart: Chart = chart, k: int = k) -> Tensor:
                t, slope = chart.to_t(w)
                return self.target(t) + slope + partition.log_responsibilities(t)[:, k]

            centre = torch.where(self.coordinates.line, 0.0, self.cloud.points.median(0).values)
            centre = centre.masked_scatter(self.coordinates.line, partition.centres[k])[None]
            trained = self._train(chart, centre, max(self.plan.tol, 2e-2), RANKS[0], share, region)
            if trained is None or not math.isfinite(trained.assessment.log_evidence):
                continue
            parts.append(ChartDensity(trained.density, chart))
            log_masses.append(trained.assessment.log_evidence)
        if not parts:
            return None
        atlas = Atlas(parts, torch.tensor(log_masses, dtype=torch.float64))
        seen = self.weigh(atlas)
        self.notes.append(f"an atlas of {len(parts)} regions has an effective share of {seen.ess:.2g}")
        self.tried.append(
            {
                "geometry": "atlas",
                "kind": f"{len(parts)} trains",
                "ess": seen.ess,
                "elbo": seen.elbo,
                "pareto_k": seen.pareto_k,
            }
        )
        return Fitted(atlas, seen.ess, seen.elbo, f"atlas of {len(parts)} regions", parts[0].base)

    def _promising(self, partition: Partition) -> bool:
        """Whether normal densities in the regions already do better than what there is."""
        parts = []
        noise = torch.randn(2048, self.coordinates.dim, generator=self.generator, dtype=torch.float64)
        for k in range(partition.size):
            chart = self._local_chart(partition, k)
            w = torch.where(chart.stretch.fixed, self._spread(chart), chart.stretch.inverse(noise)[0])
            parts.append(ChartDensity(product_density(chart, w), chart))
        seen = self.weigh(Atlas(parts, partition.log_shares))
        best = max((row["ess"] for row in self.tried), default=0.0)
        self.tried.append(
            {
                "geometry": "atlas",
                "kind": "normal regions",
                "ess": seen.ess,
                "elbo": seen.elbo,
                "pareto_k": seen.pareto_k,
            }
        )
        promising = seen.ess > 0.3 or seen.ess > 2 * best
        if not promising:
            self.notes.append(f"{partition.size} regions with an effective share of {seen.ess:.2g} only: no atlas")
        return promising

    def _spread(self, chart: Chart) -> Tensor:
        """The population's angles and finite values, for the columns that a region leaves alone."""
        assert self.cloud is not None
        points = chart.from_t(self.cloud.points)[0]
        return points[torch.arange(2048) % len(points)]

    def _local_chart(self, partition: Partition, k: int) -> Chart:
        """Coordinates of one region: the axes of its covariance."""
        line = self.coordinates.line
        number = line.nonzero()[:, 0]
        values, vectors = torch.linalg.eigh(partition.factors[k] @ partition.factors[k].T)
        order = values.argsort(descending=True)
        matrix = torch.eye(self.coordinates.dim, dtype=torch.float64)
        matrix[number[:, None], number[None]] = vectors[:, order] * values[order].clamp_min(1e-24).sqrt()
        loc = torch.zeros(self.coordinates.dim, dtype=torch.float64).masked_scatter(line, partition.centres[k])
        return Chart.plain_affine(self.coordinates, loc, matrix, label=f"region {k}")

    # -- the flow --------------------------------------------------------------------------------------------------------

    def polish(self, fitted: Fitted) -> Fitted:
        """A thin flow on top of a train, or of the products and trains that were tried; kept only if held-out weights say so."""
        if not self.gradient or (fitted.candidate is None and fitted.ess > 0.5):
            return fitted
        bases = self._bases(fitted)
        with self.account.stage("flow"):
            best_ess = max(c.assessment.ess for c in bases)
            flows = [
                (c, flow)
                for c in bases
                if (flow := self._flow(c, None, TRIAL_STEPS if len(bases) > 1 else FLOW_STEPS)) is not None
            ]
            if not flows:
                return fitted
            candidate, flow = max(flows, key=lambda found: found[1].info.ess_after)
            if len(bases) > 1 and flow.info.kept and flow.info.ess_after > best_ess:
                flow = self._flow(candidate, flow, FLOW_STEPS) or flow
        self.notes.append(f"flow on {candidate.label}: {flow.info.message}")
        if not flow.info.kept or flow.info.ess_after < fitted.ess:
            return fitted
        chart = candidate.chart.unstretched()
        label = f"{candidate.label} and flow"
        return Fitted(
            ChartDensity(flow, chart), flow.info.ess_after, flow.info.elbo_after, label, candidate.density, None
        )

    def _bases(self, fitted: Fitted) -> list[Candidate]:
        """What a flow may start from: the answer so far if it is near; else the best of the products and of the trains."""
        if fitted.candidate is not None and fitted.ess > NEAR:
            return [fitted.candidate]
        ranked = sorted(self.seen, key=_merit, reverse=True)
        products = [c for c in ranked if c.kind == "product"][:1]
        trains = [c for c in ranked if c.kind == "train"]
        axis = [c for c in trains if c.chart.axis_aligned][:1]
        others = [c for c in trains[:1] if c not in axis]
        return products + axis + others

    def _flow(self, candidate: Candidate, begun: Any, steps: int) -> Any:
        chart = candidate.chart.unstretched()
        base = StretchedDensity(candidate.density, candidate.chart.stretch)
        through = _Differentiable.apply

        def log_density(s: Tensor) -> Tensor:
            t, slope = chart.to_t(s)
            x, outer = self.coordinates.to_x(t)
            usable = torch.isfinite(x).all(-1) & torch.isfinite(outer)
            anchor = self.coordinates.to_x(torch.zeros_like(t[:1]))[0]
            values = through(torch.where(usable[:, None], x, anchor), self.account)
            return torch.where(usable, values + slope + outer, -math.inf)

        spend = None if self.plan.budget is None else int(0.7 * self.account.remaining)
        if spend is not None and spend < 2000:
            return None
        try:
            return flow_training.fit(
                base, log_density, transforms=None if begun is None else list(begun.transforms), budget=spend,
                generator=self.generator, steps=steps, patience=max(steps // 3, 300), pool_size=POOL,
            )  # fmt: skip
        except (BudgetExhausted, EvaluationError, ValueError) as failure:
            self.notes.append(f"flow failed: {failure}")
            return None

    # -- the certificate ---------------------------------------------------------------------------------------------------

    def weigh(self, density: Any, count: int | None = None) -> Assessment:
        """Weights of draws of ``x``."""
        return assess(density, self.account, count or self.plan.checks, self.generator)

    def certify(self, density: Any) -> WeightedDraws | None:
        """Fresh draws and their weights; None when the budget has ended."""
        count = int(min(self.plan.certificate, self.account.remaining))
        if count < 2:
            return None
        with self.account.stage("certificate"), torch.no_grad():
            x = density.sample((count,), generator=self.generator)
            try:
                log_weights = (self.account(x) - density.log_prob(x)).to(torch.float64)
            except BudgetExhausted:
                return None
        bad = log_weights.isnan() | (log_weights == math.inf)
        return WeightedDraws(x, torch.where(bad, -math.inf, log_weights), 1, 0, int(bad.sum()))

    def census(self, density: Any, log_evidence: float) -> tuple[CensusMode, ...]:
        """Whether the density covers the local maxima that independent starts found; costs nothing."""
        assert self.cloud is not None
        cloud = self.cloud
        if not len(cloud.modes) or not math.isfinite(log_evidence):
            return ()
        with torch.no_grad():
            x, slope = self.coordinates.to_x(cloud.modes)
            log_prob = density.log_prob(x)
        line = self.coordinates.line
        found = []
        for k in range(len(cloud.modes)):
            volume = math.nan
            if cloud.precisions is not None:
                inner = cloud.precisions[k][line][:, line]
                volume = 0.5 * len(inner) * math.log(2 * math.pi) - 0.5 * float(torch.linalg.slogdet(inner)[1])
            elif not cloud.beta < 1:
                volume = (
                    -0.5 * float(torch.logdet(torch.cov(cloud.points[:, line].T).view(int(line.sum()), -1).inverse()))
                    if int(line.sum())
                    else 0.0
                )
            found.append(
                CensusMode.judge(
                    x[k], log_density=float(cloud.mode_values[k] - slope[k]), log_prob=float(log_prob[k]),
                    log_evidence=log_evidence, log_volume=volume + float(slope[k]),
                )
            )  # fmt: skip
        return tuple(found)

    # -- inside ------------------------------------------------------------------------------------------------------------

    def _limited(self, limit: int | None) -> Any:
        return _Limit(self.account, limit)


class _Limit:
    """For a while, at most so many more evaluations."""

    def __init__(self, account: Evaluations, limit: int | None) -> None:
        self.account, self.limit = account, limit

    def __enter__(self) -> None:
        self.saved = self.account.budget
        if self.limit is not None:
            used = self.account.num_evaluations + self.account.num_probes
            self.account.budget = min(self.saved or used + self.limit, used + self.limit)

    def __exit__(self, *_: object) -> None:
        self.account.budget = self.saved


class _Differentiable(torch.autograd.Function):
    """An account as a differentiable function: values and gradients come from it together."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, account: Evaluations) -> Tensor:
        if ctx.needs_input_grad[0]:
            values, slopes = account.value_and_gradient(x)
            ctx.save_for_backward(slopes.to(x))
            return values.to(x)
        return account(x).to(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slopes,) = ctx.saved_tensors
        return grad[:, None] * slopes, None


def _merit(candidate: Candidate) -> float:
    """Log of the effective share, and where hardly anything is effective the bound of the evidence."""
    a = candidate.assessment
    if a.ess <= 0:
        return -math.inf
    reliable = a.ess * len(a.points) > 20 and a.pareto_k < 1
    return math.log(a.ess) if reliable else -10.0 + max(-1e6, a.elbo - a.log_evidence) * 1e-3
