"""A flow as a module and a distribution: identity at start, change of variables, moving, saving, every kind of base."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch.distributions import (
    Distribution,
    Independent,
    LogNormal,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.transforms import AffineTransform

from ttvi.flow import AffineCoupling, Flow, default_transforms
from ttvi.tt import Categorical, Fourier, Hermite, Legendre, TTDensity

F64 = torch.float64


def product(dim: int = 3, dtype: torch.dtype = F64) -> Distribution:
    return Independent(Normal(torch.zeros(dim, dtype=dtype), torch.ones(dim, dtype=dtype)), 1)


def correlated(dim: int = 3) -> MultivariateNormal:
    return MultivariateNormal(torch.arange(dim, dtype=F64), 0.5 * torch.eye(dim, dtype=F64) + 0.5)


def train_density() -> TTDensity:
    bases = [Legendre(-4.0, 4.0, size=16)] * 3
    grid = torch.meshgrid(*[basis.nodes() for basis in bases], indexing="ij")
    return TTDensity.from_values(
        -0.5 * sum(x.square() for x in grid) - 0.2 * grid[0] * grid[1], bases, log=True, max_rank=3
    )


def mixed_density() -> TTDensity:
    """A real coordinate, an angle and a finite one."""
    bases = [Hermite(0.0, 1.0, size=6), Fourier(-math.pi, math.pi, size=7), Categorical(3)]
    x, angle, k = torch.meshgrid(*[basis.nodes() for basis in bases], indexing="ij")
    return TTDensity.from_values(-0.5 * (x - 0.2 * k).square() + 0.5 * torch.cos(angle - x), bases, log=True)


BASES = {
    "product": product,
    "correlated": correlated,
    "log-normal": lambda: Independent(LogNormal(torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64)), 1),
    "box": lambda: Independent(Uniform(-torch.ones(3, dtype=F64), torch.ones(3, dtype=F64)), 1),
    "transformed": lambda: TransformedDistribution(
        product(), [AffineTransform(torch.ones(3, dtype=F64), 2.0, event_dim=1)]
    ),
    "train": train_density,
    "flow": lambda: moved(correlated()),
}


def moved(base: Distribution, **options: object) -> Flow:
    """A flow that is not the identity."""
    flow = Flow(base, default_transforms(base.event_shape[0], hidden=(8,), **options))
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in flow.transforms.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=g, dtype=parameter.dtype)
    return flow


def draws(density: Distribution, count: int = 200) -> torch.Tensor:
    return Flow(density).sample((count,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", BASES)
def test_a_new_flow_is_its_base(name):
    base = BASES[name]()
    x = draws(base)
    for flow in (Flow(base), Flow(base, default_transforms(3, num_layers=3)), Flow(base, [AffineCoupling(3)])):
        assert torch.equal(flow.log_prob(x), base.log_prob(x))
        assert torch.equal(flow.sample((5,), generator=torch.Generator().manual_seed(0)), draws(base, 5))
        assert flow.event_shape == (3,)
        assert flow.batch_shape == ()


def test_angles_and_finite_coordinates_start_as_the_base_too():
    base = mixed_density()
    kinds = ["real", ("circle", -math.pi, math.pi), ("discrete", 0, 2)]
    flow = Flow(base, default_transforms(3, kinds=kinds))
    x = draws(base)
    assert torch.equal(flow.log_prob(x), base.log_prob(x))
    assert not flow.has_rsample or not flow.base_module.trainable


@pytest.mark.parametrize("name", BASES)
def test_change_of_variables(name):
    """log q(x) = log q0(z) - log |det dx/dz|, the Jacobian by autograd."""
    base = BASES[name]()
    flow = moved(base)
    z = draws(base, 4)
    x, log_det = flow(z)
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda p: flow(p)[0], point) for point in z])
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet, atol=1e-9, rtol=0)
    torch.testing.assert_close(flow.inverse(x)[0], z, atol=1e-7, rtol=0)
    torch.testing.assert_close(flow.log_prob(x), base.log_prob(z) - log_det, atol=1e-6, rtol=0)


def test_it_integrates_to_one():
    flow = moved(product(1), context_dim=0)
    x = torch.linspace(-12, 12, 40001, dtype=F64)[:, None]
    assert abs(float(torch.trapezoid(flow.log_prob(x).detach().exp(), x[:, 0])) - 1) < 1e-6


def test_draws_and_their_log_probs_agree():
    flow = moved(train_density())
    x, log_prob = flow.sample_and_log_prob((50, 2), generator=torch.Generator().manual_seed(0))
    assert x.shape == (50, 2, 3)
    torch.testing.assert_close(flow.log_prob(x), log_prob, atol=1e-8, rtol=0)
    assert torch.equal(x, flow.sample((50, 2), generator=torch.Generator().manual_seed(0)))


def test_outside_of_the_support_is_minus_infinity_with_finite_gradients():
    for base in (train_density(), BASES["box"](), BASES["log-normal"]()):
        flow = moved(base)
        x = torch.cat(
            [flow.sample((3,), generator=torch.Generator().manual_seed(0)), torch.full((2, 3), -90.0, dtype=F64)]
        )
        x.requires_grad_()
        values = flow.log_prob(x)
        assert torch.isfinite(values[:3]).all()
        assert torch.isneginf(values[3:]).all()
        gradients = torch.autograd.grad(
            torch.where(torch.isfinite(values), values, 0.0).sum(), [x, *flow.transforms.parameters()]
        )
        assert all(bool(torch.isfinite(g).all()) for g in gradients)


def test_context_broadcasts_and_conditions():
    flow = moved(product(), context_dim=2)
    context = torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=F64)
    x = flow.sample((7,), context=context, generator=torch.Generator().manual_seed(0))
    assert x.shape == (7, 2, 3)
    both = flow.log_prob(x, context)
    for k in range(2):
        torch.testing.assert_close(both[:, k], flow.log_prob(x[:, k], context[k]))
    assert not torch.allclose(flow.log_prob(x[:, 0], context[0]), flow.log_prob(x[:, 0], context[1]))
    with pytest.raises(ValueError, match="Flow: expected a context of shape"):
        flow.log_prob(x)


def test_quasi_monte_carlo_draws():
    for base in (product(), correlated(), train_density()):
        x = Flow(base).sample((1024,), sobol=True, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(x.mean(0), base.mean, atol=5e-3, rtol=0)
    with pytest.raises(ValueError, match="sobol=True"):
        Flow(BASES["log-normal"]()).sample((8,), sobol=True)


def test_reparameterised_draws_have_the_gradients_of_the_transforms():
    flow = moved(product())
    x = flow.rsample((10,), generator=torch.Generator().manual_seed(0))
    assert flow.has_rsample
    (gradient,) = torch.autograd.grad(x.sum(), next(flow.transforms.parameters()))
    assert bool(gradient.abs().sum() > 0)


def test_drawing_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    Flow(correlated()).sample((5,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", BASES)
def test_it_moves_between_precisions(name):
    base = BASES[name]()
    flow = moved(base)
    x = flow.sample((100,), generator=torch.Generator().manual_seed(0))
    expected = flow.log_prob(x)
    single = copy.deepcopy(flow).to(torch.float32)
    assert single.dtype == torch.float32
    assert single.sample((2,)).dtype == torch.float32
    close = torch.isclose(single.log_prob(x.float()).double(), expected, atol=1e-2, rtol=1e-3)
    assert close.double().mean() > 0.97  # at the end of a box, rounding may leave it
    assert flow.dtype == F64


def test_transforms_in_single_precision_on_a_double_base_start_exactly_as_it():
    base = train_density()
    flow = Flow(base, default_transforms(3, dtype=torch.float32))
    x = draws(base)
    assert torch.equal(flow.log_prob(x), base.log_prob(x))


def test_state_dict_carries_the_base():
    one, other = moved(train_density()), Flow(train_density(), default_transforms(3, hidden=(8,)))
    with torch.no_grad():
        one.base_module.cores_0 *= -2.0
    assert {"base_module.cores_0", "base_module.log_scale"} <= set(one.state_dict())
    other.load_state_dict(one.state_dict())
    x = draws(one.base, 20)
    torch.testing.assert_close(other.log_prob(x), one.log_prob(x))
    assert not [name for name, _ in one.named_parameters() if name.startswith("base_module")]


@pytest.mark.parametrize("name", ["product", "train", "flow"])
def test_record_round_trip(name):
    flow = moved(BASES[name](), context_dim=1)
    spec, tensors, children = flow._to_record()
    again = Flow._from_record(json.loads(json.dumps(spec)), tensors, children)
    x, context = draws(flow.base, 10), torch.ones(1, dtype=F64)
    assert torch.equal(again.log_prob(x, context), flow.log_prob(x, context))


def test_a_trained_base_is_followed():
    flow = Flow(train_density(), train_base=True)
    x = draws(flow.base)
    before = flow.log_prob(x).detach()
    flow.log_prob(x).sum().backward()
    core = flow.base_module.cores_1
    assert isinstance(core, torch.nn.Parameter)
    assert bool(core.grad.abs().sum() > 0)
    with torch.no_grad():
        flow.sample((2,))
        core += 0.1
        assert not torch.allclose(flow.log_prob(x), before)
        moved_draws = flow.sample((4000,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(moved_draws.mean(0), flow.base.mean.detach(), atol=0.06, rtol=0)


def test_it_is_a_distribution_and_a_module():
    flow = moved(product())
    assert isinstance(flow, Distribution)
    assert isinstance(flow, torch.nn.Module)
    assert "SplineCoupling" in repr(flow)
    assert flow.support is torch.distributions.constraints.real_vector
    assert Flow(BASES["box"]()).support.check(torch.tensor([2.0, 0.0, 0.0])).item() is False


def test_errors_say_what_to_do():
    with pytest.raises(TypeError, match="Flow: expected a distribution as base; got int"):
        Flow(3)
    with pytest.raises(ValueError, match="Wrap it"):
        Flow(Normal(torch.zeros(3), 1.0))
    with pytest.raises(TypeError, match="expected transforms of ttvi.flow"):
        Flow(product(), [torch.nn.Linear(3, 3)])
    with pytest.raises(ValueError, match="dimension 3, that of the base; got 2"):
        Flow(product(), default_transforms(2))
    with pytest.raises(ValueError, match="one context dimension"):
        Flow(product(), [AffineCoupling(3, context_dim=1), AffineCoupling(3, context_dim=2)])
    with pytest.raises(TypeError, match="train_base=False"):
        Flow(product(), train_base=True)
    with pytest.raises(ValueError, match="expected a tensor of shape"):
        Flow(product()).log_prob(torch.zeros(4))


@pytest.mark.gpu
def test_on_a_gpu(device):
    flow = moved(train_density()).to(device)
    x, log_prob = flow.sample_and_log_prob((100,), generator=torch.Generator(device=device).manual_seed(0))
    assert x.device.type == "cuda"
    torch.testing.assert_close(flow.log_prob(x), log_prob, atol=1e-7, rtol=0)


def test_a_base_may_have_computed_something_before():
    """What a base remembers follows from the rest of it: it is no parameter, and a copy does not inherit it."""
    from ttvi.geometry.chart import Chart
    from ttvi.geometry.coordinates import Coordinates
    from ttvi.geometry.density import ChartDensity
    from ttvi.geometry.product import product_density
    from ttvi.supports import Support

    points = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chart = Chart.axis(Coordinates(Support.parse(dim=2)), points)
    base = ChartDensity(product_density(chart, chart.from_t(points)[0]), chart)
    flow = Flow(base)
    before = flow.log_prob(points[:5])
    again = Flow(flow.base_module.detached())
    assert torch.equal(again.log_prob(points[:5]), before)
