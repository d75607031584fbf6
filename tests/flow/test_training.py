"""Training: what it reaches where the answer is known, that it never leaves worse, and its manners."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, MixtureSameFamily, MultivariateNormal, Normal

from ttvi.diagnostics import certify
from ttvi.errors import EvaluationError
from ttvi.flow import Flow, LULinear, default_transforms, fit, fit_samples
from ttvi.flow.objectives import Counted, Pool, divergence, reverse
from ttvi.flow.verdict import compare, compare_samples
from ttvi.tt import Categorical, Fourier, Legendre, TensorTrain, TTDensity

F64 = torch.float64
QUICK = {"steps": 100, "batch_size": 128, "pool_size": 4096}


def small(dim: int = 2) -> list:
    """Little networks: what is tested is the training."""
    return default_transforms(dim, kind="affine", num_layers=2, hidden=(16,))


def product(dim: int = 2) -> Independent:
    return Independent(Normal(torch.zeros(dim, dtype=F64), torch.ones(dim, dtype=F64)), 1)


def correlated(correlation: float = 0.8) -> MultivariateNormal:
    covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=F64)
    return MultivariateNormal(torch.zeros(2, dtype=F64), covariance)


def unnormalised(x: torch.Tensor) -> torch.Tensor:
    return correlated().log_prob(x) + 3.0


def banana(x: torch.Tensor) -> torch.Tensor:
    return -0.5 * (x[:, 0].square() + (x[:, 1] - 0.7 * x[:, 0].square()).square())


def two_modes(width: float = 0.5) -> MixtureSameFamily:
    weights = torch.distributions.Categorical(torch.tensor([0.3, 0.7], dtype=F64))
    means = torch.tensor([[-2.0, -2.0], [2.0, 2.0]], dtype=F64)
    return MixtureSameFamily(weights, Independent(Normal(means, width), 1))


@pytest.mark.parametrize("objective", ["mixed", "path", "reverse", "forward"])
def test_every_objective_learns_a_correlation(objective):
    """A linear map makes the product normal exactly the correlated one: KL -> 0, ESS -> 1."""
    flow = fit(
        product(), unnormalised, transforms=[LULinear(2)], objective=objective, seed=0, learning_rate=3e-2, **QUICK
    )
    info = flow.info
    assert info.kept
    assert info.objective == objective
    assert info.ess_before < 0.75
    # path gradients vanish at the solution draw by draw; the others keep the noise of their batches
    assert info.ess_after > (0.998 if objective in ("mixed", "path") else 0.97)
    assert info.elbo_after == pytest.approx(3.0, abs=1e-3 if objective in ("mixed", "path") else 0.03)
    assert flow.dtype == F64
    certificate = certify(flow, unnormalised, num_samples=2000, generator=torch.Generator().manual_seed(1))
    assert certificate.ess == pytest.approx(info.ess_after, abs=0.02)


def test_default_transforms_bend_a_normal_into_a_banana():
    flow = fit(product(), banana, seed=0, **{**QUICK, "steps": 200})
    assert flow.info.kept
    assert flow.info.ess_before < 0.3
    assert flow.info.ess_after > 0.5
    assert flow.info.elbo_after == pytest.approx(math.log(2 * math.pi), abs=0.1)


def test_path_gradient_is_unbiased_for_the_reverse_divergence():
    """Over many draws both estimate the same gradient; at q = p the path gradient is zero for every draw."""
    flow = Flow(product(), [LULinear(2)])
    with torch.no_grad():
        for parameter in flow.transforms.parameters():
            parameter += 0.2
    target = Counted(unnormalised, budget=None, caller="fit", dtype=F64, device=torch.device("cpu"))
    pool = Pool.draw(flow, 200_000, torch.Generator().manual_seed(0), score=True)
    gradients = []
    for path in (False, True):
        flow.zero_grad()
        loss = divergence(flow, target, pool, forward_share=0.0, path=path)
        loss.surrogate.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in flow.transforms.parameters()]))
    assert float(gradients[0].norm()) > 0.1
    cosine = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    assert cosine > 0.99
    exact = Counted(product().log_prob, budget=None, caller="fit", dtype=F64, device=torch.device("cpu"))
    flow = Flow(product(), [LULinear(2)])
    loss = divergence(flow, exact, pool.rows(torch.arange(16)), forward_share=0.5)
    loss.surrogate.backward()
    assert all(float(p.grad.abs().max()) < 1e-12 for p in flow.transforms.parameters())


@pytest.mark.parametrize("objective", ["mixed", "reverse", "forward"])
def test_a_perfect_base_stays_what_it_is(objective):
    flow = fit(correlated(), unnormalised, objective=objective, seed=0, steps=40, batch_size=64, pool_size=1024)
    x = correlated().sample((100,))
    assert not flow.info.kept
    assert torch.equal(flow.log_prob(x), correlated().log_prob(x))
    assert flow.info.ess_before == pytest.approx(1.0, abs=1e-9)
    assert "the base is returned" in flow.info.message
    if objective == "mixed":
        assert flow.info.status == "converged"
        assert flow.info.steps == 0


def test_a_flow_that_got_worse_is_not_kept():
    """A learning rate that destroys everything."""
    flow = fit(correlated(0.5), unnormalised, seed=0, learning_rate=30.0, steps=30, batch_size=32, pool_size=512)
    certificate = certify(flow, unnormalised, num_samples=4000, generator=torch.Generator().manual_seed(1))
    base = certify(Flow(correlated(0.5)), unnormalised, num_samples=4000, generator=torch.Generator().manual_seed(1))
    assert certificate.ess >= base.ess - 0.02


def test_a_lost_mode_counts_although_own_draws_do_not_show_it():
    """Base: both modes, badly shaped. Flow: one mode, perfectly shaped; its own draws say ESS = 1."""
    target = two_modes()
    half = Flow(Independent(Normal(torch.tensor([2.0, 2.0], dtype=F64), 0.5), 1))
    whole = Flow(two_modes(0.8))
    counted = Counted(target.log_prob, budget=None, caller="fit", dtype=F64, device=torch.device("cpu"))
    own = certify(half, target.log_prob, num_samples=2000, generator=torch.Generator().manual_seed(0))
    assert own.ess > 0.99
    verdict = compare(half, whole, counted, 2000, torch.Generator().manual_seed(0))
    assert not verdict.better
    assert verdict.ess_after < 0.1 < 0.3 < verdict.ess_before


def test_both_modes_keep_their_weights():
    flow = fit(two_modes(0.8), two_modes().log_prob, seed=0, **QUICK)
    x = flow.sample((20_000,), generator=torch.Generator().manual_seed(0))
    assert flow.info.kept
    assert flow.info.ess_after > flow.info.ess_before + 0.2
    assert float((x[:, 0] > 0).double().mean()) == pytest.approx(0.7, abs=0.02)


def test_a_train_of_capped_rank_is_completed():
    """A chain with strong dense couplings, a train of rank one in front of it."""
    precision = 0.4 * torch.ones(4, 4, dtype=F64) + torch.eye(4, dtype=F64)
    target = lambda x: -0.5 * ((x @ precision) * x).sum(-1)  # noqa: E731
    with pytest.warns(UserWarning, match="rank-limited"):
        base = TTDensity.fit(target, [Legendre(-6.0, 6.0, size=32)] * 4, max_rank=1, seed=0)
    flow = fit(base, target, seed=0, **QUICK)
    assert flow.info.ess_before < 0.8
    assert flow.info.ess_after > 0.93
    exact = 0.5 * (4 * math.log(2 * math.pi) - float(torch.logdet(precision)))
    certificate = certify(flow, target, num_samples=4000, generator=torch.Generator().manual_seed(1))
    assert certificate.log_evidence == pytest.approx(exact, abs=5 * certificate.standard_error + 1e-4)


def test_angles_and_finite_coordinates():
    """A product base for a coupled angle and category: the circular spline learns the shift, the category stays."""
    bases = [Fourier(-math.pi, math.pi, size=9), Categorical(2)]
    base = TTDensity.from_values(torch.ones(9, 2, dtype=F64), bases)
    target = lambda x: torch.cos(x[:, 0] - 2.0 * x[:, 1])  # noqa: E731
    flow = fit(base, target, seed=0, **QUICK)
    assert flow.info.ess_after > 0.9 > flow.info.ess_before + 0.1
    x = flow.sample((500,), generator=torch.Generator().manual_seed(0))
    assert bool(((x[:, 1] == 0) | (x[:, 1] == 1)).all())
    assert float(x[:, 0].abs().max()) <= math.pi + 1e-9


def test_a_flat_base_and_one_that_cannot_move():
    """A uniform base has no score; finite coordinates alone leave nothing to train."""
    box = Independent(torch.distributions.Uniform(torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)), 1)
    flow = fit(box, lambda x: 2.0 * x.prod(-1), transforms=small(), seed=0, steps=5, pool_size=64)
    assert flow.info.steps == 5
    finite = TTDensity.from_values(torch.ones(3, 2, dtype=F64), [Categorical(3), Categorical(2)])
    flow = fit(finite, lambda x: x.sum(-1), seed=0, steps=5, pool_size=64)
    assert flow.info.status == "nothing to train"
    assert not flow.info.kept


def test_a_density_without_gradient_is_learned_by_its_weights():
    flow = fit(
        product(), lambda x: unnormalised(x.detach()), transforms=[LULinear(2)], seed=0, learning_rate=3e-2, **QUICK
    )
    assert flow.info.objective == "forward"
    assert flow.info.ess_after > 0.97
    with pytest.raises(ValueError, match='objective="forward"'):
        fit(product(), lambda x: unnormalised(x.detach()), objective="path", seed=0)


@pytest.mark.parametrize("objective", ["mixed", "forward"])
def test_every_evaluation_counts_and_the_budget_holds(objective):
    paid = 0

    def counting(x):
        nonlocal paid
        paid += len(x)
        return unnormalised(x)

    flow = fit(product(), counting, budget=3000, objective=objective, transforms=[LULinear(2)], seed=0)
    assert paid == flow.info.num_evaluations <= 3000
    assert paid > 1500
    flow = fit(product(), counting, budget=3, seed=0)
    assert flow.info.status == "budget exhausted"
    assert not flow.info.kept


def test_invalid_values_are_counted_and_leave_no_trace():
    def half_broken(x):
        return torch.where(x[:, 0] > 1.5, torch.nan, unnormalised(x))

    flow = fit(product(), half_broken, transforms=small(), seed=0, steps=60, batch_size=64, pool_size=1024)
    assert flow.info.num_invalid > 0
    assert all(bool(torch.isfinite(p).all()) for p in flow.parameters())
    flow = fit(product(), lambda x: torch.full_like(x[:, 0], torch.nan) * x[:, 0], seed=0, steps=10, pool_size=256)
    assert flow.info.skipped == 10
    assert not flow.info.kept


def test_points_that_left_the_support_are_pulled_back():
    """A half-line target: no gradient beyond the edge, and yet nothing stays there."""
    target = lambda x: torch.where(x[:, 0] > 0, -x.square().sum(-1) / 2, -torch.inf)  # noqa: E731
    base = Independent(Normal(torch.tensor([1.0, 0.0], dtype=F64), 0.8), 1)
    flow = fit(base, target, transforms=small(), seed=0, **QUICK)
    assert flow.info.ess_after >= flow.info.ess_before


def test_a_seed_decides_everything():
    one, other, third = (
        fit(product(), banana, transforms=small(), seed=seed, steps=30, pool_size=512) for seed in (4, 4, 5)
    )
    state = torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), third.parameters()))
    assert one.info.history == other.info.history
    fit(product(), banana, transforms=small(), generator=torch.Generator().manual_seed(0), steps=2, pool_size=64)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("objective", ["mixed", "forward"])
def test_an_interrupted_fit_continues_to_the_same_answer(objective, tmp_path):
    pytest.importorskip("safetensors")
    options = {"objective": objective, "steps": 90, "pool_size": 512, "batch_size": 32, "seed": 0}
    options["transforms"] = small()
    plain = fit(product(), banana, **options)

    def interrupt(record):
        if record.step >= 40:
            raise KeyboardInterrupt

    path = tmp_path / "flow.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(product(), banana, checkpoint=path, callback=interrupt, **options)
    again = fit(product(), banana, checkpoint=path, **options)
    for a, b in zip(plain.parameters(), again.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert [r.step for r in again.info.history] == [r.step for r in plain.info.history]
    assert again.info.ess_after == pytest.approx(plain.info.ess_after)
    with pytest.raises(ValueError, match="another learning_rate"):
        fit(product(), banana, checkpoint=path, learning_rate=1.0, **options)


def test_history_and_patience():
    records = []
    flow = fit(
        product(), unnormalised, transforms=[LULinear(2)], seed=0, callback=records.append, learning_rate=3e-2, **QUICK
    )
    assert tuple(records) == flow.info.history
    assert records[0].step == 0
    assert records[-1].score < records[0].score
    assert records[-1].num_evaluations < flow.info.num_evaluations
    stopped = fit(product(), banana, transforms=small(), seed=0, learning_rate=20.0, patience=20, **QUICK)
    assert stopped.info.status == "stopped early"
    assert stopped.info.steps < QUICK["steps"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precisions(dtype):
    flow = fit(
        product(),
        unnormalised,
        transforms=small(),
        learning_rate=1e-2,
        dtype=dtype,
        seed=0,
        **QUICK,
    )
    assert flow.dtype == F64
    assert flow.info.ess_after > 0.95
    single = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    flow = fit(single, banana, transforms=small(), dtype=dtype, seed=0, steps=60, pool_size=1024)
    assert flow.dtype == torch.float32
    assert flow.info.ess_after > flow.info.ess_before


def test_annealing_and_transforms_that_are_given():
    given = default_transforms(2, kind="affine", hidden=(16,))
    flow = fit(product(), banana, transforms=given, anneal=0.5, seed=0, **QUICK)
    assert flow.info.ess_after > flow.info.ess_before
    assert not any(bool(p.abs().sum()) for p in given[0].conditioner.last.parameters()), (
        "the caller's modules are copied"
    )


@pytest.mark.parametrize("objective", ["forward", "reverse"])
def test_the_base_can_be_trained_too(objective):
    """A train of rank two that starts as a product (times 1 + xy/100) learns a correlation by itself."""
    bases = [Legendre(-5.0, 5.0, size=12)] * 2
    nodes = bases[0].nodes()
    root = torch.exp(-0.25 * nodes.square()) * bases[0].weights().sqrt()
    first = torch.stack([root, 0.1 * nodes * root], -1)
    base = TTDensity(TensorTrain([first[None], first.T[..., None]]), bases)
    flow = fit(
        base,
        lambda x: correlated(0.5).log_prob(x),
        transforms=[],
        train_base=True,
        objective=objective,
        learning_rate=2e-2,
        seed=0,
        **QUICK,
    )
    assert flow.info.kept
    assert flow.info.ess_after > flow.info.ess_before + 0.1
    with pytest.raises(ValueError, match="forward"):
        fit(base, unnormalised, train_base=True, objective="path")


# -- samples -----------------------------------------------------------------------------------------------------------


def test_samples_of_a_known_density():
    """Log-normal coordinates: the held-out log-likelihood approaches minus the entropy."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 2, generator=g, dtype=F64).mul(0.5).exp()
    flow = fit_samples(None, x, steps=250, learning_rate=1e-2, seed=0).requires_grad_(False)
    exact = torch.distributions.LogNormal(torch.zeros(2, dtype=F64), 0.5)
    fresh = torch.randn(4000, 2, generator=g, dtype=F64).mul(0.5).exp()
    assert flow.info.kept
    assert math.isnan(flow.info.ess_after)
    gap = exact.log_prob(fresh).sum(-1) - flow.log_prob(fresh)
    assert 0 < float(gap.mean()) < 0.08


def test_any_base_to_any_data():
    """From a train in a box to a correlated normal."""
    bases = [Legendre(-5.0, 5.0, size=24)] * 2
    base = TTDensity.fit(lambda x: -0.5 * x.square().sum(-1), bases, seed=0)
    x = correlated().sample((4000,))
    flow = fit_samples(base, x, steps=100, transforms=small(), learning_rate=1e-2, seed=0)
    gap = correlated().log_prob(x) - flow.log_prob(x)
    assert float(gap.mean()) < 0.05


def test_samples_stay_in_the_box_of_the_base():
    """x uniform, y uniform below x: moved out of the box of its base, a sample would have probability zero."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(4000, 1, generator=g, dtype=F64)
    x = torch.cat([x, x * torch.rand(4000, 1, generator=g, dtype=F64)], 1)
    base = TTDensity.fit(lambda x: 0 * x[:, 0], [Legendre(-0.01, 1.01, size=4)] * 2, seed=0)
    flow = fit_samples(base, x, steps=150, seed=0)
    assert flow.info.kept
    assert flow.info.elbo_after > flow.info.elbo_before + 0.6  # of one nat in all: E[-log x]
    draws = flow.sample((1000,), generator=g)
    assert bool(((draws >= -0.01) & (draws <= 1.01)).all())


def test_conditional_density_of_a_linear_normal_family():
    """theta ~ N(0, 1), y = theta + noise/2: p(theta | y) = N(0.8 y, 0.2)."""
    g = torch.Generator().manual_seed(0)
    theta = torch.randn(6000, 1, generator=g, dtype=F64)
    y = theta + 0.5 * torch.randn(6000, 1, generator=g, dtype=F64)
    flow = fit_samples(product(1), theta, context=y, steps=150, learning_rate=1e-2, seed=0)
    exact = Normal(0.8 * y, math.sqrt(0.2)).log_prob(theta).squeeze(-1)
    assert float((exact - flow.log_prob(theta, y)).mean()) == pytest.approx(0.0, abs=0.02)
    observed = torch.tensor([[-1.0], [0.5]], dtype=F64)
    draws = flow.sample((4000,), context=observed, generator=g)
    torch.testing.assert_close(draws.mean(0), 0.8 * observed, atol=0.1, rtol=0)
    torch.testing.assert_close(draws.var(0), torch.full((2, 1), 0.2, dtype=F64), atol=0.05, rtol=0)


def test_contexts_in_any_unit():
    """The same family, the observation in other units: the same answer."""
    g = torch.Generator().manual_seed(0)
    theta = torch.randn(3000, 1, generator=g, dtype=F64)
    y = theta + 0.5 * torch.randn(3000, 1, generator=g, dtype=F64)
    one, other = (fit_samples(product(1), theta, context=c, steps=40, seed=0) for c in (y, 1e4 + 1e3 * y))
    torch.testing.assert_close(one.log_prob(theta, y), other.log_prob(theta, 1e4 + 1e3 * y), atol=1e-2, rtol=0)
    record = other._to_record()
    assert torch.equal(Flow._from_record(*record).log_prob(theta, y), other.log_prob(theta, y))


def test_samples_of_the_base_leave_it_alone():
    x = product().sample((1000,))
    flow = fit_samples(product(), x, steps=30, seed=0)
    assert not flow.info.kept
    assert torch.equal(flow.log_prob(x), product().log_prob(x))
    better = compare_samples(torch.full((10,), -torch.inf), torch.zeros(10))
    assert better.better


def test_samples_with_context_that_says_nothing_keep_the_interface():
    g = torch.Generator().manual_seed(0)
    x, context = torch.randn(500, 2, generator=g, dtype=F64), torch.randn(500, 3, generator=g, dtype=F64)
    flow = fit_samples(product(), x, context=context, steps=5, seed=0)
    assert not flow.info.kept
    assert flow.sample((4,), context=context[:5]).shape == (4, 5, 2)
    assert flow.log_prob(x, context).shape == (500,)


def test_a_progress_bar(capsys):
    pytest.importorskip("tqdm")
    fit(product(), banana, progress=True, steps=4, pool_size=64, seed=0)
    assert "elbo" in capsys.readouterr().err


BAD = {
    "steps": (lambda: fit(product(), banana, steps=0), ValueError, "expected steps to be a positive integer; got 0"),
    "objective": (lambda: fit(product(), banana, objective="elbo"), ValueError, "expected objective in"),
    "both": (lambda: fit(product(), banana, seed=0, generator=torch.Generator()), ValueError, "not both"),
    "shape": (lambda: fit(product(), lambda x: x), ValueError, "Sum over the last dimension"),
    "raises": (lambda: fit(product(), lambda x: 1 / 0), EvaluationError, "ZeroDivisionError"),
    "callable": (lambda: fit(product(), 3), TypeError, "expected a callable"),
    "dtype": (lambda: fit(product(), banana, dtype=torch.int64), TypeError, "floating-point dtype"),
    "dim": (lambda: fit(product(), banana, transforms=default_transforms(3)), ValueError, "dimension 2"),
    "samples": (lambda: fit_samples(None, torch.zeros(3)), ValueError, "samples of shape"),
    "columns": (lambda: fit_samples(product(), torch.zeros(9, 3)), ValueError, r"shape \(..., 2\)"),
    "nan": (lambda: fit_samples(None, torch.full((9, 2), torch.nan)), ValueError, "without NaN"),
    "context": (lambda: fit_samples(None, torch.rand(9, 2), context=torch.rand(8, 1)), ValueError, "context"),
    "validation": (lambda: fit_samples(None, torch.rand(9, 2), validation=1.0), ValueError, "validation"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_say_what_to_do(name):
    call, kind, text = BAD[name]
    with pytest.raises(kind, match=text):
        call()


@pytest.mark.gpu
def test_on_a_gpu(device):
    flow = fit(product(), banana, device=device, seed=0, **QUICK)
    assert flow.device.type == "cuda"
    assert flow.info.ess_after > 0.8


def test_reverse_divergence_has_the_gradient_of_its_closed_form():
    """KL of N(m, 1) to N(0, 1) in a shift: the gradient is m."""
    flow = Flow(product(1), [LULinear(1)])
    with torch.no_grad():
        flow.transforms[0].shift += 0.7
    target = Counted(
        lambda x: -0.5 * x.square().sum(-1), budget=None, caller="fit", dtype=F64, device=torch.device("cpu")
    )
    loss = reverse(flow, target, 100_000, torch.Generator().manual_seed(0))
    loss.surrogate.backward()
    assert float(flow.transforms[0].shift.grad) == pytest.approx(0.7, abs=0.02)


# -- pools of products --------------------------------------------------------------------------------------------------


def product_train():
    generator = torch.Generator().manual_seed(5)
    bases = [Legendre(-1.0, 1.0, size=6)] * 3
    return TTDensity(
        TensorTrain([torch.rand(1, 6, 1, generator=generator, dtype=F64) for _ in bases]), bases, defensive=0.0
    )


@pytest.mark.parametrize(
    "base",
    [product_train(), product(3)],
)
def test_draws_of_a_product_are_mixed_column_by_column(base):
    """New points of old columns, with the density and the score that the base has there."""
    flow = Flow(base)
    pool = Pool.draw(flow, 4000, torch.Generator().manual_seed(0), score=True)
    batch = pool.batch(500, torch.Generator().manual_seed(1))
    assert not bool((batch.z[:, None] == pool.z).all(-1).any())
    assert bool(torch.isin(batch.z, pool.z).all())
    leaf = batch.z.clone().requires_grad_()
    exact = base.log_prob(leaf)
    torch.testing.assert_close(batch.log_prob, exact.detach())
    torch.testing.assert_close(batch.score, torch.autograd.grad(exact.sum(), leaf)[0])


def test_draws_of_what_is_no_product_stay_as_they_are():
    pool = Pool.draw(Flow(correlated()), 1000, torch.Generator().manual_seed(0), score=True)
    batch = pool.batch(50, torch.Generator().manual_seed(1))
    assert bool((batch.z[:, None] == pool.z).all(-1).any(-1).all())
    bases = [Legendre(-1.0, 1.0, size=4)] * 2
    coupled = TTDensity.from_values(torch.eye(4, dtype=F64) + 0.1, bases)
    assert coupled.log_prob_columns(torch.zeros(1, 2, dtype=F64)) is None
