"""Posteriors of tensor trains on boxes with closed-form targets; some q wrong on purpose, so that weights have work."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch

import ttvi
from ttvi.errors import MissingExtraError, SupportError
from ttvi.named import NamedDensity
from ttvi.posterior import Posterior, load
from ttvi.records import register
from ttvi.supports import Support, categorical, circular, interval, positive, real
from ttvi.tt import Categorical, Fourier, Legendre, TensorTrain, TTDensity
from ttvi.verdict import CensusMode, Diagnostics

RHO = 0.6
COVARIANCE = torch.tensor([[1.0, RHO, 0.0], [RHO, 1.0, 0.0], [0.0, 0.0, 0.25]], dtype=torch.float64)
MEAN = torch.tensor([0.5, 0.0, -1.0], dtype=torch.float64)
LOG_Z = 2.0
BOX = 6.5


def target(x):
    """exp(2) times a normal density; box and support cut off less than 1e-9 of it."""
    c = x - MEAN.to(x)
    quadratic = torch.einsum("...i,ij,...j->...", c, torch.linalg.inv(COVARIANCE).to(x), c)
    return LOG_Z - 0.5 * quadratic - 0.5 * torch.logdet(2 * math.pi * COVARIANCE).to(x)


def train(log_density):
    """The square root's interpolant on a full grid of nodes: no cross approximation to wait for."""
    bases = [Legendre(-BOX, BOX, size=40)] * 3
    mesh = torch.stack(torch.meshgrid(*[basis.nodes() for basis in bases], indexing="ij"), -1)
    return TTDensity.from_values(log_density(mesh), bases, log=True, tol=1e-6)


def product(factors, bases):
    """Independent coordinates with densities proportional to exp(factors) at the nodes."""
    cores = [(0.5 * factor(b.nodes())).exp() * b.weights().sqrt() for factor, b in zip(factors, bases)]
    return TTDensity(TensorTrain([core.view(1, -1, 1) for core in cores]), bases)


SUPPORT = {"mu": (interval(-BOX, BOX), 2), "tau": interval(-BOX, BOX)}


def make(density, *, count=2000, **others):
    x = density.sample((count,), generator=torch.Generator().manual_seed(1))
    arguments = {"draws": x, "log_weights": target(x) - density.log_prob(x), "log_density": target}
    return Posterior(density, Support.parse(SUPPORT), **arguments | others)


def remake(posterior, distribution=None, **others):
    """The same draws, with something else changed."""
    arguments = {"draws": posterior.draws, "log_weights": posterior.log_weights, "log_density": target}
    return Posterior(distribution or posterior.distribution, posterior.support, **arguments | others)


@pytest.fixture(scope="module")
def exact():
    return make(train(target))


@pytest.fixture(scope="module")
def biased():
    """q: independent normals of sd 1.3, 1.3 and 0.7 around 0, 0 and −0.8; its own moments are all wrong."""
    sd = torch.tensor([1.3, 1.3, 0.7], dtype=torch.float64)
    centre = torch.tensor([0.0, 0.0, -0.8], dtype=torch.float64)
    return make(train(lambda x: -0.5 * ((x - centre) / sd).square().sum(-1)), count=12_000)


# -- density and draws -------------------------------------------------------------------------------------------------


def test_log_prob_is_the_normalised_target(exact):
    x = MEAN + torch.randn(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = exact.log_prob(x)
    assert value.shape == (5, 4)
    torch.testing.assert_close(value, target(x) - LOG_Z, rtol=0, atol=5e-3)
    assert exact.log_prob(x[0, 0]).shape == ()


def test_outside_the_support_the_density_is_zero(exact):
    x = torch.tensor([[0.0, 0.0, 0.0], [0.0, BOX + 1, 0.0], [math.inf, 0.0, 0.0], [math.nan, 0.0, 0.0]]).double()
    value = exact.log_prob(x)
    assert math.isfinite(value[0])
    assert value[1:3].tolist() == [-math.inf, -math.inf]
    assert math.isnan(value[3])
    with pytest.raises(ValueError, match=r"log_prob: expected a tensor of shape \(..., 3\); got \(4, 2\)"):
        exact.log_prob(x[:, :2])


def test_gradients_ignore_points_outside(exact):
    x = torch.tensor([[0.3, 0.2, -0.9], [99.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = exact.log_prob(x)
    (gradient,) = torch.autograd.grad(value[0], x)
    expected = -torch.linalg.solve(COVARIANCE, x[0].detach() - MEAN)
    torch.testing.assert_close(gradient[0], expected, rtol=0, atol=1e-2)
    assert gradient[1].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("arguments", [{}, {"sobol": True}, {"corrected": True}, {"corrected": "resample"}])
def test_shapes_and_seeds_of_draws(exact, arguments):
    x = exact.sample((8, 3), seed=5, **arguments)
    assert x.shape == (8, 3, 3)
    assert torch.equal(x, exact.sample((8, 3), generator=torch.Generator().manual_seed(5), **arguments))
    assert not torch.equal(x, exact.sample((8, 3), seed=6, **arguments))
    assert exact.sample(seed=0, **arguments).shape == (3,)
    assert exact.sample(4, seed=0, **arguments).shape == (4, 3)
    assert exact.sample((0,), seed=0, **arguments).shape == (0, 3)
    assert bool(exact.support.contains(x).all())


def test_global_random_state_is_left_alone(exact):
    state = torch.get_rng_state()
    exact.sample((5,), seed=0, corrected=True)
    exact.to_dict()
    exact.summary()
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("method", ["mh", "resample"])
def test_corrected_draws_have_the_moments_of_the_target(biased, method):
    """Plain draws of the biased q are off by tenths; errors of corrected ones are those of some 2000 draws."""
    x = biased.sample((6000,), seed=2, corrected=method)
    plain = biased.draws
    assert float((plain.mean(0) - MEAN).abs().max()) > 0.2
    assert float((torch.cov(plain.mT) - COVARIANCE).abs().max()) > 0.4
    torch.testing.assert_close(x.mean(0), MEAN, rtol=0, atol=0.08)
    torch.testing.assert_close(torch.cov(x.mT), COVARIANCE, rtol=0, atol=0.12)
    first = x[:2000]  # any part stands for the whole
    torch.testing.assert_close(first.mean(0), MEAN, rtol=0, atol=0.15)


def test_proposals_where_the_target_fails_are_never_accepted(biased):
    def broken(x):
        return torch.where(x[:, 2] > -1, math.nan, target(x))

    x = biased.draws
    log_weights = torch.where(x[:, 2] > -1, math.nan, biased.log_weights)
    posterior = remake(biased, log_weights=log_weights, log_density=broken)
    assert bool((posterior.sample((500,), seed=0, corrected=True)[:, 2] <= -1).all())


def test_errors_of_sample(exact):
    with pytest.raises(ValueError, match="expected corrected to be True, False, 'mh' or 'resample'; got 'gibbs'"):
        exact.sample(corrected="gibbs")
    with pytest.raises(ValueError, match="sobol=True or corrected=, not both"):
        exact.sample(corrected=True, sobol=True)
    with pytest.raises(ValueError, match="generator= or seed=, not both"):
        exact.sample(seed=0, generator=torch.Generator())
    with pytest.raises(ValueError, match="expected a log-density.*log_density="):
        exact.marginal([0]).sample(corrected=True)


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_weighted_estimates_are_those_of_the_target(biased):
    def close(estimate, truth):
        truth = torch.as_tensor(truth, dtype=torch.float64)
        assert bool(((estimate - truth).abs() < 4 * estimate.standard_error).all())
        assert float(estimate.standard_error.max()) < 0.06

    close(biased.mean, MEAN)
    close(biased.variance, COVARIANCE.diagonal())
    close(biased.standard_deviation, COVARIANCE.diagonal().sqrt())
    close(biased.covariance, COVARIANCE)
    normal = torch.distributions.Normal(MEAN, COVARIANCE.diagonal().sqrt())
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    close(biased.quantile(levels), normal.icdf(levels[:, None]))
    close(biased.quantile(0.5), MEAN)
    close(biased.expectation(lambda x: x[:, 0] > 0.5), 0.5)
    value, error = biased.log_evidence
    assert abs(value - LOG_Z) < 4 * error < 0.1
    with pytest.raises(ValueError, match=r"expected levels in \[0, 1\]; got 50.0. Divide"):
        biased.quantile(50)


def test_estimates_by_name(biased):
    assert float(biased.mean["tau"]) == float(biased.mean[2])
    assert float(biased.mean["mu[1]"]) == float(biased.mean[1])
    assert biased.mean["mu"].standard_error.shape == (2,)
    assert float(biased.covariance["mu[0]", "tau"]) == float(biased.covariance[0, 2])
    assert biased.quantile([0.1, 0.9])["mu"].shape == (2, 2)


def test_weights_of_zero_everywhere(exact):
    dead = remake(exact, log_weights=torch.full((2000,), -math.inf))
    with pytest.raises(ValueError, match="mean: expected draws of positive weight; every one has zero density"):
        _ = dead.mean
    assert dead.verdict.level == "do not trust"
    assert "zero density" in str(dead.summary())
    repr(dead)


def test_a_budget_that_ended_before_any_weight(biased, tmp_path):
    """The estimates are those of q, the verdict says so, and corrected draws are still right."""
    posterior = remake(biased, log_weights=None)
    assert posterior.verdict.level == "do not trust"
    assert "no importance weights" in str(posterior.summary())
    torch.testing.assert_close(posterior.mean + 0, biased.draws.mean(0))
    x = posterior.sample((6000,), seed=0, corrected=True)
    torch.testing.assert_close(x.mean(0), MEAN, rtol=0, atol=0.08)
    posterior.save(tmp_path)
    assert str(load(tmp_path).summary()) == str(posterior.summary())


# -- parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [[2, 0], ["tau", "mu[0]"], torch.tensor([0, -1])])
def test_marginals_are_exact(exact, dims):
    marginal = exact.marginal(dims)
    assert marginal.names == ("mu[0]", "tau")  # in the original order
    keep = [0, 2]
    normal = torch.distributions.MultivariateNormal(MEAN[keep], COVARIANCE[keep][:, keep])
    x = marginal.sample((100,), seed=0)
    torch.testing.assert_close(marginal.log_prob(x), normal.log_prob(x), rtol=0, atol=2e-2)
    torch.testing.assert_close(marginal.mean.as_subclass(torch.Tensor), exact.mean[keep])
    assert marginal.log_evidence == exact.log_evidence
    assert marginal.log_prob(torch.tensor([0.0, 99.0])) == -math.inf


def test_marginal_of_a_block_and_of_a_marginal(exact):
    block = exact.marginal("mu")
    assert block.to_dict(torch.zeros(5, 2))["mu"].shape == (5, 2)
    assert block.marginal("mu[1]").names == ("mu[1]",)
    assert exact.marginal(["mu", "tau"]).dim == 3
    assert exact.marginal(1).names == ("mu[1]",)


@pytest.mark.parametrize("values", [{0: 1.5, 2: -0.5}, {"mu[0]": 1.5, "tau": torch.tensor(-0.5)}])
def test_conditionals_are_exact(exact, values):
    conditional = exact.condition(values)
    assert conditional.names == ("mu[1]",)
    normal = torch.distributions.Normal(RHO * 1.0, math.sqrt(1 - RHO**2))
    x = torch.linspace(-1, 2, 9, dtype=torch.float64)
    torch.testing.assert_close(conditional.log_prob(x[:, None]), normal.log_prob(x), rtol=0, atol=1e-2)
    assert abs(float(conditional.sample((4000,), seed=0).mean()) - RHO) < 0.06


def test_conditional_given_a_block(exact):
    conditional = exact.condition({"mu": [0.0, 1.0]})
    assert conditional.names == ("tau",)
    assert "tau; TTDensity" in repr(conditional)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: p.marginal([]), ValueError, "at least one coordinate"),
        (lambda p: p.marginal([3]), IndexError, r"positions in \[0, 3\); got 3"),
        (lambda p: p.marginal([0, 0]), ValueError, "distinct positions"),
        (lambda p: p.marginal("nu"), ValueError, r"name of a coordinate \(mu, mu\[0\], .*\); got 'nu'"),
        (lambda p: p.condition({}), ValueError, "between 1 and 2 coordinates; got 0"),
        (lambda p: p.condition({"mu": [0.0, 0.0], "tau": 0.0}), ValueError, "between 1 and 2 coordinates; got 3"),
        (lambda p: p.condition({"mu": 0.0}), ValueError, "expected 2 values for 'mu'; got 1"),
        (lambda p: p.condition({"mu": [0.0, 0.0], 0: 0.0}), ValueError, "each coordinate once"),
        (lambda p: p.condition({0: 99.0}), SupportError, "in .*; got"),
    ],
)
def test_errors_of_parts(exact, call, error, message):
    with pytest.raises(error, match=message):
        call(exact)


class Opaque:
    """A distribution that offers no more than it must."""

    def __init__(self, density):
        self.density, self.event_shape, self.dtype = density, density.event_shape, density.dtype

    def log_prob(self, x):
        return self.density.log_prob(x)

    def sample(self, shape, *, generator=None):
        return self.density.sample(shape, generator=generator)


def test_what_a_distribution_lacks_is_said(exact):
    posterior = remake(exact, Opaque(exact.distribution))
    with pytest.raises(ValueError, match="exact marginals; got a Opaque.*columns of sample"):
        posterior.marginal([0])
    with pytest.raises(ValueError, match="exact conditionals; got a Opaque"):
        posterior.condition({0: 0.0})
    with pytest.raises(ValueError, match="expected a distribution with Sobol points; got Opaque"):
        posterior.sample((4,), sobol=True)
    with pytest.raises(TypeError, match="reparameterised draws"):
        posterior.rsample((4,))
    with pytest.raises(TypeError, match="pack: .*got Opaque"):
        posterior.save("nowhere")
    assert posterior.sample((4,), seed=0, corrected=True).shape == (4, 3)


def test_wrong_sizes(exact):
    with pytest.raises(ValueError, match="a distribution over 2 coordinates"):
        NamedDensity(exact.distribution, Support.parse([real, real]))
    with pytest.raises(ValueError, match=r"draws of shape \(S, 3\) with S log-weights"):
        remake(exact, log_weights=torch.zeros(7))


# -- other forms -------------------------------------------------------------------------------------------------------


def mixed_posterior(count=4000):
    """Independent: tau ~ exponential, an angle of mean direction 3 next to the cut, k of three values."""

    logits = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    factors = [lambda x: -x, lambda x: 4 * torch.cos(x - 3.0), lambda x: logits[x.long()]]

    def log_density(x):
        return sum(factor(column) for factor, column in zip(factors, x.unbind(-1)))

    bases = [Legendre(0.0, 30.0, size=40), Fourier(-math.pi, math.pi, size=31), Categorical(3)]
    density = product(factors, bases)
    support = Support.parse({"tau": positive, "angle": circular(), "k": categorical(3)})
    x = density.sample((count,), generator=torch.Generator().manual_seed(3))
    return Posterior(density, support, draws=x, log_weights=log_density(x) - density.log_prob(x))


def test_summary_of_a_mixed_posterior():
    posterior = mixed_posterior()
    tau, angle, k = posterior.summary().rows
    assert tau.mean == pytest.approx(1.0, abs=0.08)
    assert tau.quantiles == pytest.approx((0.0513, 0.693, 2.996), abs=0.15)
    assert angle.mean == pytest.approx(3.0, abs=0.03)  # the linear mean is near 2
    assert angle.sd == pytest.approx(0.54, abs=0.03)
    assert angle.quantiles[0] < 3.0 < math.pi < angle.quantiles[2]
    assert [value for value, _ in k.probabilities] == [1.0, 2.0, 0.0]
    assert [mass for _, mass in k.probabilities] == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
    text = str(posterior.summary())
    assert "P(1) = 0." in text


def test_summary_says_what_matters(exact):
    diagnostics = exact.diagnostics.replace(
        status="rank-limited", ranks=(1, 7, 5, 1), seconds=1.25, num_evaluations=12_345, num_nan=3, mode_census=()
    )
    posterior = remake(exact, diagnostics=diagnostics)
    text = str(posterior.summary())
    for part in (
        "mu[0]",
        "tau",
        "95 %",
        "log evidence   2.0",
        "12,345 in 1.2 s",
        "rank-limited, rank 7",
        "3 evaluations",
    ):
        assert part in text
    assert "Verdict: good" in text
    assert "Next: " in text
    assert repr(posterior).startswith("Posterior(dim=3, log evidence 2 ±")
    lost = diagnostics.replace(mode_census=(CensusMode((0.0, 0.0, 0.0), 0.0, -90.0, False, 0.3),))
    text = str(remake(exact, diagnostics=lost).summary())
    assert "1 found by independent starts, 1 of them missed" in text
    assert "Verdict: do not trust" in text


def test_long_summaries_are_cut():
    density = product([lambda x: -x.square()] * 45, [Legendre(-5.0, 5.0, size=24)] * 45)
    x = density.sample((200,), generator=torch.Generator().manual_seed(0))
    posterior = Posterior(density, Support.parse(dim=45), draws=x, log_weights=torch.zeros(200))
    assert "… and 5 more coordinates" in str(posterior.summary())
    assert len(posterior.summary().rows) == 45
    assert "x[6], …;" in repr(posterior.condition({0: 0.0, "x[44]": 1.0}))


def test_to_dict_gives_blocks(exact):
    assert {name: tuple(value.shape) for name, value in exact.to_dict().items()} == {"mu": (2000, 2), "tau": (2000,)}
    x = exact.sample((4, 5), seed=0)
    parts = exact.to_dict(x)
    assert torch.equal(parts["mu"], x[..., :2])
    assert torch.equal(parts["tau"], x[..., 2])


@pytest.mark.parametrize("corrected", [False, True])
def test_arviz(biased, corrected):
    arviz = pytest.importorskip("arviz")
    data = biased.to_arviz(num_chains=3, num_draws=400, corrected=corrected)
    assert data.posterior["mu"].shape == (3, 400, 2)
    assert data.posterior["tau"].shape == (3, 400)
    x = torch.cat(
        [torch.from_numpy(data.posterior["mu"].values), torch.from_numpy(data.posterior["tau"].values)[..., None]], -1
    )
    torch.testing.assert_close(torch.from_numpy(data.sample_stats["lp"].values), target(x))
    assert float(data.posterior["tau"].mean()) == pytest.approx(-1.0, abs=0.1)
    assert "tau" in arviz.summary(data).index


def test_missing_arviz_names_the_extra(biased, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(MissingExtraError, match=r"pip install ttvi\[arviz\]"):
        biased.to_arviz()


# -- keeping -----------------------------------------------------------------------------------------------------------


def test_save_and_load(exact, tmp_path):
    exact.save(tmp_path / "run")
    loaded = ttvi.load(tmp_path / "run")
    x = exact.sample((50,), seed=0)
    assert isinstance(loaded, ttvi.Posterior)
    assert torch.allclose(loaded.log_prob(x), exact.log_prob(x), rtol=1e-12)  # strides may differ, and sums with them
    assert torch.equal(loaded.draws, exact.draws)
    assert torch.equal(loaded.log_weights, exact.log_weights)
    assert repr(loaded.diagnostics) == repr(exact.diagnostics)
    assert str(loaded.summary()) == str(exact.summary())
    assert loaded.names == exact.names
    assert torch.allclose(loaded.sample((3,), seed=0), exact.sample((3,), seed=0), rtol=1e-9)
    names = sorted(path.suffix for path in (tmp_path / "run").iterdir())
    assert names == [".json", ".safetensors"]


def test_corrected_draws_after_loading_need_the_log_density(exact, tmp_path):
    exact.save(tmp_path)
    with pytest.raises(ValueError, match=r"ttvi.load\(path, log_density=...\)"):
        load(tmp_path).sample((3,), corrected=True)
    loaded = load(tmp_path, log_density=target)
    assert torch.equal(loaded.sample((3,), seed=0, corrected=True), exact.sample((3,), seed=0, corrected=True))


def test_loading_in_float32(exact, tmp_path, device):
    exact.save(tmp_path)
    loaded = load(tmp_path, dtype=torch.float32, device=device)
    assert loaded.dtype == loaded.mean.dtype == loaded.distribution.dtype == torch.float32
    assert loaded.log_weights.dtype == torch.float64
    assert loaded.device.type == loaded.log_weights.device.type == device.type
    x = exact.draws[:100]
    torch.testing.assert_close(loaded.log_prob(x).double().cpu(), exact.log_prob(x), rtol=0, atol=1e-3)
    torch.testing.assert_close(loaded.mean.double().cpu(), exact.mean + 0, rtol=0, atol=1e-5)


def test_a_mixed_posterior_comes_back(tmp_path):
    posterior = mixed_posterior(200)
    posterior.save(tmp_path)
    loaded = load(tmp_path)
    assert loaded.kinds == posterior.kinds
    assert str(loaded.summary()) == str(posterior.summary())
    marginal = posterior.marginal(["angle"])
    marginal.save(tmp_path / "angle")
    assert load(tmp_path / "angle").names == ("angle",)


def test_files_of_later_versions(exact, tmp_path):
    exact.save(tmp_path)
    file = tmp_path / "record.json"
    values = json.loads(file.read_text())
    values["record"]["spec"]["diagnostics"]["news"] = 1  # a field added later is no reason to refuse
    file.write_text(json.dumps(values))
    assert repr(load(tmp_path).diagnostics) == repr(exact.diagnostics)
    values["schema"] = 2
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="Upgrade ttvi"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="load: expected a directory"):
        load(tmp_path / "elsewhere")


@register("test shifted")
class Shifted:
    """x + shift of a base: a composition that another module might add."""

    def __init__(self, base, shift):
        self.base, self.shift = base, shift

    @property
    def dtype(self):
        return self.shift.dtype

    def log_prob(self, x):
        return self.base.log_prob(x - self.shift)

    def sample(self, shape, *, generator=None):
        return self.base.sample(shape, generator=generator) + self.shift

    def _to_record(self):
        return {}, {"shift": self.shift}, {"base": self.base}

    @classmethod
    def _from_record(cls, spec, tensors, children):
        return cls(children["base"], tensors["shift"])


def test_compositions_are_kept_too(exact, tmp_path):
    shifted = Shifted(exact.distribution, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    x = shifted.sample((300,), generator=torch.Generator().manual_seed(0))
    posterior = Posterior(
        shifted,
        Support.parse(dim=3),
        draws=x,
        log_weights=torch.zeros(300),
        diagnostics=Diagnostics(ess=1.0, num_draws=300),
    )
    posterior.save(tmp_path)
    loaded = load(tmp_path)
    assert torch.allclose(loaded.log_prob(x), posterior.log_prob(x), rtol=1e-12)
    assert loaded.diagnostics.num_draws == 300
