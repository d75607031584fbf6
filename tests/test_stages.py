"""Decisions inside a fit that are too rare or too late in it for a quick fit to meet."""

import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from ttvi.diagnostics import WeightedDraws
from ttvi.errors import BudgetExhausted
from ttvi.flow import Flow
from ttvi.geometry.assessment import Assessment, assess
from ttvi.geometry.candidates import NARROWEST, Candidate, in_chart, whitened
from ttvi.geometry.chart import Chart
from ttvi.geometry.coordinates import Coordinates, Pullback
from ttvi.geometry.density import ChartDensity
from ttvi.geometry.interval import to_line
from ttvi.geometry.product import product_density
from ttvi.stages import certificate, choose, company, polish, regions, tighten, training
from ttvi.stages.search import Fitted, Tried
from ttvi.supports import Support, circular, interval, real
from ttvi.tt import Fourier, TTDensity

DIM = 3


def normal(count, dim=DIM, at=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(at), dtype=torch.float64)


def log_density(x):
    return -0.5 * x.square().sum(-1)


def product(points):
    coordinates = Coordinates(Support.parse(dim=points.shape[1]))
    chart = whitened(coordinates, points)
    density = product_density(chart, chart.from_t(points)[0])
    target = lambda w: log_density(chart.to_t(w)[0]) + chart.to_t(w)[1]  # noqa: E731
    seen = assess(density, target, 2000, torch.Generator().manual_seed(1))
    return Candidate(chart, density, seen, "product", points), target


def test_a_flow_keeps_a_twentieth_of_its_product():
    candidate, _ = product(normal(2000))
    flow = torch.distributions.MultivariateNormal(torch.zeros(DIM).double(), torch.eye(DIM).double())
    search = SimpleNamespace(weigh=lambda density: density, cloud=SimpleNamespace(points=normal(500, at=2), beta=1.0))
    mixture, seen = polish._guarded(search, flow, candidate)
    assert seen is mixture
    assert mixture.log_shares.exp().tolist() == pytest.approx([0.95, 0.05])
    # Where the flow has next to nothing the product bounds the weights.
    far = torch.full((1, DIM), 4.0, dtype=torch.float64)
    thin = torch.distributions.MultivariateNormal(torch.zeros(DIM).double(), 0.05 * torch.eye(DIM).double())
    bounded, _ = polish._guarded(search, thin, candidate)
    assert float(thin.log_prob(far)) < -400
    assert float(bounded.log_prob(far)) > -40


def test_what_a_flow_starts_from_ends_somewhere():
    """Narrow tails have a draw at any number once in a while; the target's ends at five, and the flow's start within twenty."""
    candidate, target = product(normal(2000))
    search = SimpleNamespace(cloud=SimpleNamespace(points=normal(500, at=2), beta=1.0))
    generator = torch.Generator().manual_seed(5)
    furthest = []
    for density in (candidate.with_narrow_tails(0.01), tighten.far_ends_cut(search, candidate, safe=0.01)):
        t = candidate.chart.to_t(density.sample((400_000,), generator=generator))[0]
        furthest.append(float(t.abs().max()))
    assert furthest[0] > 30 > 20 > furthest[1] > 4
    poor = replace(candidate, assessment=replace(candidate.assessment, ess=0.001))
    assert tighten.far_ends_cut(search, poor, safe=0.01).bases == candidate.density.bases


@pytest.mark.parametrize(("after", "taken"), [(0.72, False), (0.85, True)])
def test_a_flow_on_something_else_must_bring_a_tenth(monkeypatch, after, taken):
    """The answer so far may still be mixed with a product, which such a flow would lose."""
    candidate, _ = product(normal(2000))
    other = replace(candidate, kind="train")
    flow = torch.nn.Module()
    flow.info = SimpleNamespace(kept=True, ess_after=after, elbo_after=0.0, message="")
    start = polish._Start("product", candidate.density, candidate.chart, "here", other)
    monkeypatch.setattr(polish, "_starts", lambda search, fitted: [start])
    monkeypatch.setattr(polish, "_best_flow", lambda search, starts: (start, flow))
    account = SimpleNamespace(stage=lambda name: nullcontext())
    fitted = polish.Fitted(candidate.density, 0.7, 0.0, "train", candidate=candidate)
    found = polish.polish(SimpleNamespace(gradient=True, account=account, notes=[]), fitted)
    assert (found is not fitted) == taken


def test_no_product_no_guard():
    candidate, _ = product(normal(2000))
    trained = Candidate(candidate.chart, candidate.density, candidate.assessment, "train")
    assert polish._guarded(SimpleNamespace(), None, trained) is None
    assert polish._guarded(SimpleNamespace(), None, None) is None


@pytest.mark.parametrize(("coupling", "local"), [("chain", True), ("dense", False), ("unknown", False)])
def test_flows_look_at_the_users_coordinates_where_these_are_local(coupling, local):
    chain = torch.diag(torch.full((29,), -0.4), 1) + torch.diag(torch.full((29,), -0.4), -1) + torch.eye(30)
    dense = torch.eye(30) + 0.1
    precisions = {"chain": chain[None], "dense": dense[None], "unknown": None}[coupling]
    assert polish._is_local(SimpleNamespace(cloud=SimpleNamespace(precisions=precisions))) is local


@pytest.mark.parametrize(("dim", "far", "ends"), [(50, 0.0, True), (50, 90.0, False), (5, 0.0, False)])
def test_columns_of_regions_end_where_there_are_many_normal_ones(dim, far, ends):
    """Not in few coordinates, nor where one point of the region is further out than a normal one ever is."""
    points = normal(2000, dim)
    coordinates = Coordinates(Support.parse(dim=dim))
    chart = whitened(coordinates, points)
    points[0, 0] += far  # in axes that are oblique to it
    partition = SimpleNamespace(log_responsibilities=lambda t: t.new_zeros(len(t), 1))
    found = regions._ended(
        SimpleNamespace(cloud=SimpleNamespace(points=points), coordinates=coordinates),
        regions._Regions(partition, [chart], [points]),
        0,
    )
    edge = found.to_t(torch.ones(1, dim, dtype=torch.float64))[0]
    assert (float(edge.abs().max()) < 50) is ends  # unstretched columns have no end but rounding


@pytest.mark.parametrize(("dim", "ends"), [(40, False), (41, True)])
def test_the_users_coordinates_end_where_there_are_many(dim, ends):
    """Beyond the population and a heavy maximum; a light one, far out, is left out."""
    points = normal(1000, dim)
    modes = torch.zeros(3, dim, dtype=torch.float64)
    modes[1, 0], modes[2, 1] = 9.0, 30.0
    cloud = SimpleNamespace(
        points=points,
        modes=modes,
        mode_values=torch.tensor([0.0, -1.0, -20.0]),
        precisions=torch.eye(dim).expand(3, -1, -1),
    )
    coordinates = Coordinates(Support.parse(dim=dim))
    found = choose._ends(SimpleNamespace(cloud=cloud, coordinates=coordinates, target=log_density))
    assert (found is not None) == ends
    if found is not None:
        assert float(found[1][0]) == 9
        assert 5 < float(found[1][1]) < 9


def test_intervals_that_are_filled_are_not_asked_where_they_end():
    """Their ends are known, and would pass for tails of the line that they are mapped to."""
    t = torch.cat(
        [
            0.1 * normal(1000, 30),
            to_line(
                0.01 + 0.98 * torch.rand(1000, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            ),
        ],
        1,
    )
    coordinates = Coordinates(Support.parse([real] * 30 + [interval(0.0, 1.0)] * 20))
    asked = []

    def target(points):
        asked.append(points)
        return -0.5 * (points[:, :30] / 0.1).square().sum(1)

    cloud = SimpleNamespace(points=t, modes=t[:0], precisions=None)
    lower, upper = choose._ends(SimpleNamespace(cloud=cloud, coordinates=coordinates, target=target))
    assert torch.isfinite(upper - lower).tolist() == [True] * 30 + [False] * 20
    assert not asked


def test_no_column_ends_where_the_budget_has():
    def paid(_):
        raise BudgetExhausted("all spent")

    heavy = torch.sinh(2 * normal(1000, 41))
    cloud = SimpleNamespace(points=heavy, modes=heavy[:0], precisions=None)
    search = SimpleNamespace(cloud=cloud, coordinates=Coordinates(Support.parse(dim=41)), target=paid)
    assert choose._ends(search) is None


def test_a_trial_that_lacks_what_its_product_finds_is_not_excellent():
    """A train fitted to a density without its tail: none of its own draws tells, those of the product do."""
    candidate, target = product(normal(2000))

    def cut(w):
        return torch.where(candidate.chart.to_t(w)[0][:, 0] > 2.5, -60.0, target(w))

    def trained(function):
        density = TTDensity.fit(function, candidate.chart.bases(), tol=2e-2, max_rank=20, seed=0)
        assert density.info.converged
        return Candidate(
            candidate.chart, density, assess(density, target, 4000, torch.Generator().manual_seed(2)), "train"
        )

    search = SimpleNamespace(seen=[candidate])
    assert training.excellent(search, trained(target))
    lacking = trained(cut)
    assert lacking.assessment.ess > training.EXCELLENT
    assert not training.excellent(search, lacking)


def search_with(target, *, seen=(), atlases=(), paid=None):
    """What :func:`company.joined` needs of a search; with a budget that ends after so many looks at a density."""
    looks = []

    def weigh(density):
        looks.append(density)
        if paid is not None and len(looks) > paid:
            raise BudgetExhausted("no more", 0)
        return assess(density, target, 2000, torch.Generator().manual_seed(len(looks)))

    account = SimpleNamespace(stage=lambda name: nullcontext(), remaining=10**9)
    plan = SimpleNamespace(checks=2000, certificate=2000)
    cloud = SimpleNamespace(points=normal(2000), beta=1)
    return SimpleNamespace(
        weigh=weigh, account=account, plan=plan, cloud=cloud, seen=list(seen), atlases=list(atlases), notes=[]
    )


def without_tail():
    """An answer that lacks the draws beyond 2.5, two thirds of a hundredth, and shows nothing of that."""
    candidate, _ = product(normal(2000))
    chart = candidate.chart

    def cut(w):
        t, slope = chart.to_t(w)
        return torch.where(t[:, 0] > 2.5, -60.0, log_density(t) + slope)

    density = TTDensity.fit(cut, chart.bases(), tol=2e-2, max_rank=20, seed=0)
    answer = Candidate(chart, density, assess(density, cut, 2000, torch.Generator().manual_seed(2)), "train")
    assert answer.assessment.ess > 0.9
    return answer, candidate


@pytest.mark.parametrize("kind", ["product", "atlas"])
def test_an_answer_that_lacks_the_end_of_a_density_is_mixed_with_what_has_it(kind):
    answer, other = without_tail()
    density = ChartDensity(other.density, other.chart)
    seen = assess(density, log_density, 2000, torch.Generator().manual_seed(1))
    there = {"seen": [other]} if kind == "product" else {"atlases": [Tried(density, density, seen)]}
    search = search_with(log_density, **there)
    found = company.joined(search, Fitted.of(answer))
    assert len(search.notes) == 1
    shares = found.density.log_shares.exp()
    assert float(shares[1]) in [pytest.approx(share) for share in company.SHARES]
    x = normal(200_000, at=9)
    tail = x[x[:, 0] > 2.6]
    lacking, mended = (
        log_density(tail) - density.log_prob(tail) for density in (Fitted.of(answer).density, found.density)
    )
    assert float(mended.max()) < 9 < float(lacking.max())  # with log Z = 2.8


def test_an_answer_that_lacks_nothing_stays_as_it_is():
    other, target = product(normal(2000))
    density = TTDensity.fit(target, other.chart.bases(), tol=2e-2, max_rank=20, seed=0)
    answer = Fitted.of(Candidate(other.chart, density, assess(density, target, 2000, torch.Generator()), "train"))
    assert company.joined(search_with(log_density, seen=[other]), answer) is answer


@pytest.mark.parametrize(("most", "asked"), [(4, [0.9, 0.5]), (1, [0.9])])
def test_the_best_of_every_label_is_asked(monkeypatch, most, asked):
    monkeypatch.setattr(company, "MOST", most)
    answer, other = without_tail()
    seen = [
        replace(c, assessment=replace(c.assessment, ess=ess)) for c, ess in [(other, 0.2), (other, 0.9), (answer, 0.5)]
    ]
    found = company._others(search_with(None, seen=seen), Fitted.of(answer))
    assert [one.seen.ess for one in found] == asked


def test_company_is_not_asked_where_there_is_none_or_no_budget():
    answer, other = without_tail()
    fitted = Fitted.of(answer)
    silent = replace(other, assessment=replace(other.assessment, ess=0.01))
    assert company.joined(search_with(None, seen=[silent, answer]), fitted) is fitted
    poor = search_with(None, seen=[other])
    poor.account.remaining = 5000
    assert company.joined(poor, fitted) is fitted
    for paid in (0, 1):
        assert company.joined(search_with(log_density, seen=[other], paid=paid), fitted) is fitted


def test_regions_are_chosen_by_their_bulk():
    """Bent regions that differ by a tenth of a nat, and a few draws that weigh as much as all: their trains repair that."""
    z = normal(4000, 1)[:, 0]
    few = Assessment.of(normal(4000), torch.cat([0.4 * z[:-2], torch.tensor([6.0, 6.0])]))
    wide = Assessment.of(normal(4000), 1.2 * z)
    assert few.ess < 0.1 < wide.ess
    assert regions._worth(wide) < 0.5 < regions._worth(few)
    # Weights that have missed half of the mass are worth no more than those that found it make them.
    assert regions._worth(few, few.log_evidence + 0.7) < regions._worth(few) / 2


def region(spread, status, at=0):
    """The train of a region, with log weights of that deviation."""
    seen = Assessment.of(normal(4000), spread * normal(4000, 1, at)[:, 0] - 0.5 * spread**2)
    return SimpleNamespace(density=SimpleNamespace(info=SimpleNamespace(status=status)), assessment=seen)


@pytest.mark.parametrize(
    ("spread", "status", "rank", "raised"),
    [
        (0.7, "rank-limited", 200, True),
        (0.7, "budget exhausted", 200, True),
        (0.7, "stalled", 200, False),  # no rank would help
        (2.0, "rank-limited", 200, False),  # not near
        (0.1, "rank-limited", 200, False),  # as good as done
        (0.7, "rank-limited", 12, False),  # the user's cap
    ],
)
def test_regions_short_of_rank_get_the_next_one(monkeypatch, spread, status, rank, raised):
    """Those that fell short, and only where the train of the next rank is better than what there is."""
    trained = {0: region(0.05, "converged"), 1: region(spread, status), 2: region(spread, status, at=2)}
    whole = trained[1].assessment
    asked, mixed = [], []

    def build(search, found, k, budget, rank):
        asked.append((k, rank, budget))
        return region(0.2 if k == 1 else 2 * spread, "rank-limited", at=5)

    def mix(search, found, trains, products):
        mixed.append(trains)
        return SimpleNamespace(ess=0.95)

    monkeypatch.setattr(regions, "_region", build)
    monkeypatch.setattr(regions, "_mixed", mix)
    search = SimpleNamespace(
        atlases=[SimpleNamespace(seen=whole)], plan=SimpleNamespace(max_rank=rank), left=lambda part, among: None
    )
    atlas = SimpleNamespace(ess=whole.ess)
    found = regions._raised(search, None, trained, whole, atlas)
    if not raised:
        assert found is atlas
        assert not asked
        return
    assert [row[:2] for row in asked] == [(1, 24), (2, 24)]
    assert found.ess == 0.95
    assert mixed[0][0] is trained[0]
    assert mixed[0][1] is not trained[1]
    assert mixed[0][2] is trained[2]


def test_an_atlas_survives_the_end_of_the_budget(monkeypatch):
    def spent(*arguments):
        raise BudgetExhausted("no more", 0)

    monkeypatch.setattr(regions, "_region", lambda *arguments: region(0.2, "converged"))
    monkeypatch.setattr(regions, "_mixed", spent)
    short = region(0.7, "rank-limited")
    search = SimpleNamespace(
        atlases=[SimpleNamespace(seen=short.assessment)],
        plan=SimpleNamespace(max_rank=200),
        left=lambda part, among: 1000,
    )
    atlas = SimpleNamespace(ess=0.6)
    assert regions._raised(search, None, {0: short}, short.assessment, atlas) is atlas


@pytest.mark.parametrize(
    ("heights", "dim", "whole", "told"),
    [
        ([0.0, -0.5, -9.0], 20, True, 2),  # the third has next to nothing
        ([0.0], 20, True, 0),  # of one maximum nothing is known but its place
        ([0.0, 0.0] + [-5.0] * 38, 20, True, 2),  # a tenth and more of the mass in many light ones
        ([0.0] * 40, 20, True, 0),  # so many would be a fiber each
        ([0.0, 0.0], 5, True, 0),  # few coordinates
        ([0.0], 20, False, 1),  # of a half one is enough
        ([0.0, -3.0, -4.0], 20, False, 1),  # and it goes before lesser ones
        ([0.0, -0.5, -9.0], 20, False, 2),  # where it has nearly all of the mass
        ([0.0] * 60, 20, False, 0),
    ],
)
def test_maxima_with_nearly_all_of_the_mass_say_where_to_begin(heights, dim, whole, told):
    count = len(heights)
    cloud = SimpleNamespace(
        modes=normal(count, dim),
        mode_values=torch.tensor(heights, dtype=torch.float64),
        precisions=torch.eye(dim, dtype=torch.float64).expand(count, dim, dim),
    )
    search = SimpleNamespace(cloud=cloud, coordinates=SimpleNamespace(dim=dim), whole=whole)
    assert torch.equal(training.telling_maxima(search), cloud.modes[:told])


def test_without_curvatures_no_maximum_says_anything():
    cloud = SimpleNamespace(modes=normal(2, 20), mode_values=torch.zeros(2), precisions=None)
    search = SimpleNamespace(cloud=cloud, coordinates=SimpleNamespace(dim=20))
    assert len(training.telling_maxima(search)) == 0


def test_a_train_that_lost_a_mode_is_not_better():
    """Its own weights are perfect; the draws of a rougher one that has both tell."""
    points = normal(4000)
    points[::2, 0] += 6.0
    coordinates = Coordinates(Support.parse(dim=DIM))
    chart = whitened(coordinates, points)

    def two_modes(w):
        t, slope = chart.to_t(w)
        return torch.logaddexp(log_density(t), log_density(t - torch.tensor([6.0, 0.0, 0.0]))) + slope

    def trained(function):
        density = TTDensity.fit(function, chart.bases(), tol=2e-2, max_rank=20, seed=0)
        return Candidate(chart, density, assess(density, two_modes, 4000, torch.Generator().manual_seed(3)), "train")

    one = trained(lambda w: torch.where(chart.to_t(w)[0][:, 0] < 3, two_modes(w), -60.0))
    both = trained(lambda w: two_modes(w) + 0.5 * (3 * chart.to_t(w)[0][:, 1]).sin())
    search = SimpleNamespace(coordinates=coordinates)
    assert one.assessment.ess > both.assessment.ess + 0.05
    assert training.lacks(search, one, both)
    assert not training.lacks(search, both, one)
    assert training._better(search, both, one)
    assert not training._better(search, one, both)


# dimension, status, effective share, divergence, Pareto k of the train; whether a sharper one is built, and from the population
SHARPENED = [
    (3, "rank-limited", 0.98, 0.05, 0.3, True, False),  # draws wasted where the density falls off
    (3, "converged", 0.98, 0.01, 0.3, False, False),
    (3, "converged", 0.8, 0.01, 0.9, True, True),  # a few draws decide the weights: an end that it is short of
    (3, "rank-limited", 0.8, 0.01, 0.9, False, False),
    (3, "converged", 0.05, 0.01, 0.9, False, False),
    (20, "converged", 0.8, 0.01, 0.9, False, False),
]


@pytest.mark.parametrize(("dim", "status", "ess", "divergence", "k", "built", "from_population"), SHARPENED)
@pytest.mark.parametrize("after", [0.9, 0.99])
def test_a_train_is_sharpened_where_it_is_short_of_something(
    monkeypatch, dim, status, ess, divergence, k, built, from_population, after
):
    asked = []

    def candidate(ess, divergence, k=0.0):
        train = SimpleNamespace(train=SimpleNamespace(ranks=(1, 12, 1)), info=SimpleNamespace(status=status))
        seen = SimpleNamespace(
            ess=ess, divergence=divergence, pareto_k=k, points=normal(4000), elbo=0.0, log_evidence=0.0
        )
        return SimpleNamespace(kind="train", assessment=seen, density=train, chart=None, ess=ess, train=train)

    def train_in(search, chart, points, *, tol, max_rank, **_):
        asked.append((tol, max_rank, points))
        return candidate(after, 0.0)

    monkeypatch.setattr(training, "train_in", train_in)
    monkeypatch.setattr(training, "_population", lambda search, candidate: normal(5))
    monkeypatch.setattr(training.Fitted, "of", lambda candidate: candidate)
    search = SimpleNamespace(
        account=SimpleNamespace(stage=lambda name: nullcontext()), plan=SimpleNamespace(max_rank=64, tol=0.03),
        coordinates=SimpleNamespace(dim=dim), cloud=SimpleNamespace(points=normal(9)), left=lambda share: 1000, record=asked.count,
    )  # fmt: skip
    own = candidate(ess, divergence, k)
    fitted = SimpleNamespace(candidate=own, train=own.train, ess=ess)
    found = training.sharpen(search, fitted)
    assert len(asked) == built
    assert (found is not fitted) == (built and after > ess)
    for tol, rank, points in asked:
        assert tol == pytest.approx(0.01)
        assert rank == 24
        assert len(points) == (9 if from_population else 5)


def ranks_paid_for(monkeypatch, status, ess=0.5):
    """Of a train of rank 12 that ended so, and of those that follow it."""
    paid = []

    def candidate(rank, status, ess):
        train = SimpleNamespace(
            train=SimpleNamespace(ranks=(1, rank, 1)), info=SimpleNamespace(status=status, error=0.5)
        )
        seen = SimpleNamespace(ess=ess, elbo=0.0, points=normal(4), log_weights=torch.zeros(4), divergence=0.1)
        return SimpleNamespace(
            kind="train", density=train, assessment=seen, chart=SimpleNamespace(dim=3), label="train"
        )

    def train_in(search, chart, points, *, max_rank, **_):
        paid.append(max_rank)
        return candidate(max_rank, "rank-limited", ess + max_rank / 1000)

    search = SimpleNamespace(
        account=SimpleNamespace(stage=lambda name: nullcontext()), plan=SimpleNamespace(max_rank=64, tol=0.1), record=paid.count,
        coordinates=SimpleNamespace(dim=3), cloud=SimpleNamespace(precisions=None, modes=normal(0), points=normal(9)),
        most_per_train=None, left=lambda share: None,
    )  # fmt: skip
    monkeypatch.setattr(training, "train_in", train_in)
    monkeypatch.setattr(training.Fitted, "of", lambda candidate: candidate)
    monkeypatch.setattr(training, "_better", lambda search, new, old: new.assessment.ess > old.assessment.ess)
    best = training._raised(search, candidate(12, status, ess), training.RANKS)
    return paid, best


def test_a_rank_that_fell_short_is_not_paid_for_again(monkeypatch):
    paid, best = ranks_paid_for(monkeypatch, "rank-limited")
    assert paid == [24]  # which brings too little for more
    assert max(best.density.train.ranks) == 24
    assert ranks_paid_for(monkeypatch, "stalled")[0][0] == 12


@pytest.mark.parametrize(
    ("errors", "tried"), [((0.3, 0.4, 0.7), ["a", "b"]), ((0.9, 1.0, 2.5), []), ((0.6, 0.79, 0.85), ["a", "b"])]
)
def test_no_higher_rank_where_first_trains_are_far_off(monkeypatch, errors, tried):
    """Ten rotated Gaussians err by one and more in any chart; the Rosenbrock chain by 0.4 in its own."""
    candidates = [SimpleNamespace(chart=SimpleNamespace(label=name), ess=0.1) for name in "abc"]
    paid = []

    def best_in_turn(search, near, ranks=training.RANKS[:1]):
        if ranks != training.RANKS[:1]:
            paid.extend(c.chart.label for c in near)
        return near[0]

    monkeypatch.setattr(training, "_rivals", lambda search, chosen: candidates[2:])
    monkeypatch.setattr(training, "_best_in_turn", best_in_turn)
    monkeypatch.setattr(training, "merit", lambda candidate: -ord(candidate.chart.label))
    monkeypatch.setattr(training, "_error", lambda search, chart: errors["abc".index(chart.label)])
    cloud = SimpleNamespace(modes=normal(0), precisions=None)
    training._best_of_rivals(SimpleNamespace(seen=candidates, cloud=cloud), candidates[2])
    assert sorted(paid) == tried


# -- what an independent population says of the evidence ---------------------------------------------------------------------


@pytest.mark.parametrize(("end", "low", "high"), [(9.0, 0.0, 0.005), (1.75, 0.01, 0.04), (1.28, 0.05, 0.1)])
def test_a_population_tells_of_an_end_that_is_cut_off(end, low, high):
    """All weights are equal; four, or ten, per cent of the mass are missing; some of it is noise."""
    inside = float(torch.special.log_ndtr(torch.tensor(end)))
    evidence = 0.5 * DIM * math.log(2 * math.pi)

    def log_prob(x):
        return torch.where(x[:, 0] < end, log_density(x) - evidence - inside, -torch.inf)

    draws = normal(20_000)
    draws = draws[draws[:, 0] < end]
    weighted = WeightedDraws(draws, log_density(draws) - log_prob(draws))
    points = normal(4096, at=1)
    search = SimpleNamespace(
        chart=object(),
        cloud=SimpleNamespace(points=points, values=log_density(points)),
        coordinates=SimpleNamespace(to_x=lambda t: (t, torch.zeros(len(t)))),
    )
    density = SimpleNamespace(log_prob=log_prob)
    assert low <= certificate.lacking(search, density, weighted) <= high
    search.chart = None
    assert math.isnan(certificate.lacking(search, density, weighted))


# -- angles that follow each other -------------------------------------------------------------------------------------------


def followed(single):
    """A candidate of four angles of which the last follows two others, or one."""
    theta = 6.28 * torch.rand(2000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theta[:, 3] = torch.angle(torch.exp(1j * theta[:, 0]) + torch.exp(1j * theta[:, 1])) % 6.28
    coordinates = Coordinates(Support.parse([circular(0.0, 2 * math.pi)] * 4))
    chart, _ = Chart.triangular(coordinates, theta, torch.arange(4), label="triangular", single=single)
    density = product_density(chart, chart.from_t(theta)[0])
    target = Pullback(coordinates, lambda x: torch.cos(x).sum(-1))
    seen = assess(density, in_chart(target, chart), 1000, torch.Generator().manual_seed(1))
    return Candidate(chart, density, seen, "product", theta)


@pytest.mark.parametrize(
    ("single", "places"), [(True, ["before the mixing", "after the mixing"]), (False, ["after the mixing"])]
)
def test_where_angles_jump_a_flow_acts_on_the_angles_themselves(single, places):
    candidate = followed(single)
    assert candidate.chart.smooth == single
    search = SimpleNamespace(
        coordinates=candidate.chart.coordinates, cloud=SimpleNamespace(points=candidate.points, beta=1)
    )
    starts = polish._places(search, candidate)
    assert [start.place for start in starts] == places
    flow = Flow(starts[-1].base, [])
    x = starts[-1].chart.to_t(flow.sample((50,), generator=torch.Generator().manual_seed(2)))[0]
    assert bool(((x >= 0) & (x < 2 * math.pi)).all())
    assert all(isinstance(basis, Fourier) for basis in starts[-1].base.bases)
    torch.testing.assert_close(
        flow.log_prob(x), ChartDensity(candidate.with_narrow_tails(NARROWEST), candidate.chart).log_prob(x)
    )


def test_no_train_follows_a_jump():
    candidate = followed(False)
    search = SimpleNamespace(account=SimpleNamespace(remaining=10**9), plan=SimpleNamespace(checks=100), target=None)
    assert (
        training.train_in(search, candidate.chart, candidate.points, tol=0.1, max_rank=4, budget=10**6, log_density=len)
        is None
    )
