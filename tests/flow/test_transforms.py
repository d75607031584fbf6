"""One table of transforms, every promise of the contract checked on each of them."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch

from ttvi.flow import (
    AdditiveCoupling,
    AffineCoupling,
    Compose,
    Coupling,
    DiagonalAffine,
    InverseAutoregressive,
    LULinear,
    MaskedAutoregressive,
    Permutation,
    Residual,
    SplineCoupling,
    Transform,
    default_transforms,
    from_spec,
)
from ttvi.flow.columns import Partition
from ttvi.flow.conditioner import MAX_INDICATORS
from ttvi.flow.halves import moving_halves
from ttvi.flow.residual import spectral_bound
from ttvi.flow.spline import MAX_LOG_SLOPE, unit_spline

MIXED = ["real", ("circle", -1.0, 2.0), ("discrete", 0, 2), "real", ("circle", 0.0, 2 * math.pi), ("discrete", -5, 40)]
BOUNDED = ["real", ("interval", -1.0, 3.0), "real", ("circle", 0.0, 1.0), ("interval", 0.0, 100.0), ("discrete", 0, 2)]
NETWORK = {"hidden": (16, 16)}
UNITS = {"loc": [0.5, 0.0, -1.0, 2.0, 0.0, 0.0], "scale": [2.0, 1.0, 0.1, 3.0, 1.0, 1.0]}


def seed(value: int) -> torch.Generator:
    return torch.Generator().manual_seed(value)


# name: (constructor, kinds)
TABLE = {
    "additive": (lambda d, **o: AdditiveCoupling(d, **NETWORK, **o), None),
    "affine": (lambda d, **o: AffineCoupling(d, **NETWORK, **o), None),
    "affine with units": (lambda d, **o: AffineCoupling(d, **NETWORK, **UNITS, **o), None),
    "affine mixed": (lambda d, **o: AffineCoupling(d, kinds=MIXED, **NETWORK, **UNITS, **o), MIXED),
    "affine all at once": (lambda d, **o: AffineCoupling(d, moved=range(6), **NETWORK, **o), None),
    "spline": (lambda d, **o: SplineCoupling(d, **NETWORK, **o), None),
    "spline with units": (lambda d, **o: SplineCoupling(d, bins=5, bound=3.0, **NETWORK, **UNITS, **o), None),
    "spline mixed": (lambda d, **o: SplineCoupling(d, moved=[0, 1], kinds=MIXED, **NETWORK, **UNITS, **o), MIXED),
    "spline on circles": (lambda d, **o: SplineCoupling(d, moved=[1, 4], kinds=MIXED, **NETWORK, **o), MIXED),
    "spline all at once": (lambda d, **o: SplineCoupling(d, moved=[0, 1, 3, 4], kinds=MIXED, **o), MIXED),
    "spline bounded": (lambda d, **o: SplineCoupling(d, moved=[0, 1, 3], kinds=BOUNDED, **NETWORK, **o), BOUNDED),
    "affine of neighbours": (
        lambda d, **o: AffineCoupling(
            d, moved=[0, 3], neighbours=[[1], [2, 4, 5]], kinds=MIXED, **NETWORK, **UNITS, **o
        ),
        MIXED,
    ),
    "spline of neighbours": (
        lambda d, **o: SplineCoupling(d, moved=[1, 3], neighbours=[[2, 4, 0], [5]], kinds=MIXED, **NETWORK, **o),
        MIXED,
    ),
    "masked bounded": (lambda d, **o: MaskedAutoregressive(d, map="spline", kinds=BOUNDED, **NETWORK, **o), BOUNDED),
    "default affine bounded": (
        lambda d, **o: Compose(default_transforms(d, kind="affine", kinds=BOUNDED, num_layers=2, **NETWORK, **o)),
        BOUNDED,
    ),
    "masked": (lambda d, **o: MaskedAutoregressive(d, **NETWORK, **UNITS, **o), None),
    "masked mixed spline": (lambda d, **o: MaskedAutoregressive(d, kinds=MIXED, map="spline", **NETWORK, **o), MIXED),
    "inverse": (lambda d, **o: InverseAutoregressive(d, order=[3, 1, 0, 2, 5, 4], **NETWORK, **o), None),
    "inverse mixed": (lambda d, **o: InverseAutoregressive(d, kinds=MIXED, **NETWORK, **UNITS, **o), MIXED),
    "residual": (lambda d, **o: Residual(d, **NETWORK, **UNITS, **o), None),
    "residual mixed": (lambda d, **o: Residual(d, kinds=MIXED, **NETWORK, **o), MIXED),
    "permutation": (
        lambda d, **o: Permutation(d, order=[2, 0, 1, 5, 4, 3], **{k: o[k] for k in o if k != "generator"}),
        None,
    ),
    "diagonal": (
        lambda d, **o: DiagonalAffine(d, kinds=MIXED, **UNITS, **{k: o[k] for k in o if k != "generator"}),
        MIXED,
    ),
    "lu": (lambda d, **o: LULinear(d, **UNITS, **{k: o[k] for k in o if k != "generator"}), None),
    "lu mixed": (lambda d, **o: LULinear(d, kinds=MIXED, **{k: o[k] for k in o if k != "generator"}), MIXED),
}
for name in ("spline", "affine", "additive", "maf", "iaf", "residual"):
    TABLE[f"default {name}"] = (
        lambda d, name=name, **o: Compose(default_transforms(d, kind=name, kinds=MIXED, num_layers=2, **NETWORK, **o)),
        MIXED,
    )
DIM = 6


def build(name: str, *, context_dim: int = 0, dtype: torch.dtype = torch.float64, noise: float = 0.0) -> Transform:
    transform = TABLE[name][0](DIM, context_dim=context_dim, dtype=dtype, generator=seed(1))
    generator = seed(2)
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return transform


def points(name: str, number: int, *, dtype: torch.dtype = torch.float64, spread: float = 2.0) -> torch.Tensor:
    generator = seed(3)
    z = spread * torch.randn(number, DIM, generator=generator, dtype=torch.float64)
    for k, kind in enumerate(TABLE[name][1] or []):
        if kind[0] in ("circle", "interval"):
            z[:, k] = kind[1] + (kind[2] - kind[1]) * torch.rand(number, generator=generator, dtype=torch.float64)
        elif kind[0] == "discrete":
            z[:, k] = torch.randint(kind[1], kind[2] + 1, (number,), generator=generator).double()
    return z.to(dtype)


def contexts(context_dim: int, number: int, dtype: torch.dtype = torch.float64) -> torch.Tensor | None:
    return torch.randn(number, context_dim, generator=seed(4), dtype=torch.float64).to(dtype) if context_dim else None


def distance(name: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Largest difference, around the circles the short way."""
    gap = (a - b).abs()
    for k, kind in enumerate(TABLE[name][1] or []):
        if kind[0] == "circle":
            gap[..., k] = torch.minimum(gap[..., k], kind[2] - kind[1] - gap[..., k])
    return gap.max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize("name", TABLE)
class TestBothTypes:
    def test_round_trip(self, name, context_dim, dtype):
        transform = build(name, context_dim=context_dim, dtype=dtype, noise=0.1)
        z, context = points(name, 300, dtype=dtype), contexts(context_dim, 300, dtype)
        x, log_det = transform(z, context)
        back, log_det_back = transform.inverse(x, context)
        assert x.dtype == log_det.dtype == back.dtype == log_det_back.dtype == dtype
        assert x.shape == z.shape
        assert log_det.shape == (300,)
        tol = 1e-8 if dtype == torch.float64 else 1e-4
        assert distance(name, back, z) < tol * z.abs().max()
        assert (log_det + log_det_back).abs().max() < tol * 10
        assert distance(name, x, z) > 1e-2

    def test_other_direction_first(self, name, context_dim, dtype):
        transform = build(name, context_dim=context_dim, dtype=dtype, noise=0.1)
        x, context = points(name, 300, dtype=dtype), contexts(context_dim, 300, dtype)
        again = transform(transform.inverse(x, context)[0], context)[0]
        assert distance(name, again, x) < (1e-8 if dtype == torch.float64 else 1e-4) * x.abs().max()

    def test_identity_at_start(self, name, context_dim, dtype):
        if name == "permutation":
            pytest.skip("a permutation moves from the start")
        transform = build(name, context_dim=context_dim, dtype=dtype)
        z, context = points(name, 100, dtype=dtype), contexts(context_dim, 100, dtype)
        for direction in (transform.forward, transform.inverse):
            x, log_det = direction(z, context)
            assert torch.equal(x, z)
            assert torch.equal(log_det, torch.zeros(100, dtype=dtype))


@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize("name", TABLE)
class TestEach:
    def test_log_det_is_that_of_the_autograd_jacobian(self, name, context_dim):
        transform = build(name, context_dim=context_dim, noise=0.1)
        z, context = points(name, 4), contexts(context_dim, 4)
        for direction in (transform.forward, transform.inverse):
            log_det = direction(z, context)[1]
            for i in range(len(z)):
                given = None if context is None else context[i]
                jacobian = torch.autograd.functional.jacobian(lambda v, g=given, f=direction: f(v, g)[0], z[i])
                torch.testing.assert_close(log_det[i], torch.linalg.slogdet(jacobian)[1], atol=1e-8, rtol=0)

    def test_spec_and_state_restore_it(self, name, context_dim):
        transform = build(name, context_dim=context_dim, noise=0.1)
        z, context = points(name, 20), contexts(context_dim, 20)
        other = from_spec(json.loads(json.dumps(transform.spec())))
        other.load_state_dict(transform.state_dict())
        assert other.spec() == transform.spec()
        assert (other.dim, other.context_dim) == (transform.dim, transform.context_dim)
        for a, b in zip(transform(z, context), other(z, context)):
            assert torch.equal(a, b)
        for a, b in zip(transform(z, context), copy.deepcopy(transform)(z, context)):
            assert torch.equal(a, b)

    def test_it_changes_its_type(self, name, context_dim):
        transform = build(name, context_dim=context_dim, noise=0.1)
        z, context = points(name, 20), contexts(context_dim, 20)
        exact = transform(z, context)[0]
        x, log_det = transform.to(torch.float32)(z.float(), None if context is None else context.float())
        assert x.dtype == log_det.dtype == torch.float32
        assert distance(name, x.double(), exact) < 1e-3

    def test_not_a_number_stays_and_nothing_raises(self, name, context_dim):
        transform = build(name, context_dim=context_dim, noise=0.1)
        z, context = points(name, 6), contexts(context_dim, 6)
        clean = transform(z, context)[0]
        z[0, 0], z[1, 1], z[2, 0], z[3, 3] = math.nan, math.nan, math.inf, -math.inf
        for direction in (transform.forward, transform.inverse):
            x, _ = direction(z, context)
            assert x[0].isnan().any()
            assert x[1].isnan().any()
        torch.testing.assert_close(transform(z, context)[0][4:], clean[4:])

    def test_gradients_at_the_start_are_finite_and_not_all_zero(self, name, context_dim):
        if name == "permutation":
            pytest.skip("no parameters")
        transform = build(name, context_dim=context_dim)
        z, context = points(name, 50), contexts(context_dim, 50)
        for direction in (transform.forward, transform.inverse):
            transform.zero_grad()
            x, log_det = direction(z, context)
            (x.square().sum() + x[..., :2].sin().sum() + log_det.sum()).backward()
            gradients = [p.grad for p in transform.parameters() if p.grad is not None]
            assert all(g.isfinite().all() for g in gradients)
            assert any((g != 0).any() for g in gradients)

    def test_a_score_is_carried_as_the_inverse_would(self, name, context_dim):
        transform = build(name, context_dim=context_dim, noise=0.1)
        z, context = points(name, 20), contexts(context_dim, 20)
        score = torch.randn(z.shape, generator=seed(5), dtype=z.dtype)
        x, log_det, carried = transform.carry(z, score, context)
        _, _, expected = Transform.carry(transform, z, score, context)
        torch.testing.assert_close((x, log_det), transform(z, context))
        torch.testing.assert_close(carried, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
        assert not carried.requires_grad

    def test_any_batch_shape(self, name, context_dim):
        transform = build(name, context_dim=context_dim, noise=0.1)
        z, context = points(name, 12), contexts(context_dim, 12)
        x, log_det = transform(z, context)
        shaped = None if context is None else context.reshape(3, 4, -1)
        x2, log_det2 = transform(z.reshape(3, 4, DIM), shaped)
        torch.testing.assert_close(x2.reshape(12, DIM), x)
        torch.testing.assert_close(log_det2.reshape(12), log_det)
        assert transform(z[:0], None if context is None else context[:0])[0].shape == (0, DIM)
        # One context for all points.
        if context is not None:
            torch.testing.assert_close(transform(z, context[3])[0][3], x[3])


@pytest.mark.parametrize("name", [name for name in TABLE if TABLE[name][1] is MIXED])
def test_discrete_coordinates_pass_and_are_conditioned_on(name):
    transform = build(name, noise=0.3)
    z = points(name, 50)
    x = transform(z)[0]
    assert torch.equal(x[:, [2, 5]], z[:, [2, 5]])
    for k in (2, 5):
        other = z.clone()
        other[:, k] = (other[:, k] + 1) % 3
        change = (transform(other)[0] - x)[:, [0, 1, 3, 4]].abs().max()
        assert change > 1e-6 or name in ("diagonal", "lu mixed")


@pytest.mark.parametrize("name", [name for name in TABLE if name not in ("permutation", "diagonal", "lu", "lu mixed")])
def test_context_matters_and_must_be_given(name):
    transform = build(name, context_dim=2, noise=0.1)
    z = points(name, 5)
    first, second = (transform(z, torch.tensor([v, 1.0], dtype=torch.float64))[0] for v in (0.0, 1.0))
    assert (first - second).abs().max() > 1e-4
    with pytest.raises(ValueError, match=r"expected a context of shape \(\.\.\., 2\); got none"):
        transform(z)
    with pytest.raises(ValueError, match=r"expected points of shape \(\.\.\., 6\)"):
        transform.inverse(z[:, :5], torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("name", ["spline", "spline with units"])
def test_outside_its_box_a_spline_is_the_identity(name):
    transform = build(name, noise=0.3)
    z = points(name, 50, spread=0.1)
    far = torch.tensor([100.0, 0.0, -7.0, 0.0, 1e9, 0.0], dtype=torch.float64)
    x, log_det = transform(z * torch.tensor([0.0, 1.0] * 3, dtype=torch.float64) + far)
    assert torch.equal(x[:, ::2], far[::2].expand(50, 3))
    assert torch.equal(log_det, torch.zeros(50, dtype=torch.float64))
    # An infinite coordinate is outside too, where it does not enter a network.
    assert transform(torch.tensor([math.inf, 0.0, 0.0, 0.0, -math.inf, 0.0], dtype=torch.float64))[0][0] == math.inf


def test_intervals_stay_intervals():
    transform = build("spline bounded", noise=0.3)
    z = points("spline bounded", 200)
    z[0, 1], z[1, 1], z[2, 1], z[3, 1] = -1.0, 3.0, -1.5, 4.0
    x = transform(z)[0]
    assert ((x[4:, 1] > -1) & (x[4:, 1] < 3)).all()
    assert (x[4:, 1] - z[4:, 1]).abs().max() > 0.01
    torch.testing.assert_close(x[:4, 1], z[:4, 1], atol=1e-12, rtol=0)


def test_circles_close():
    """Both ends of the period are one point: of equal image, slope and log-determinant; whole turns change nothing."""
    transform = build("spline on circles", noise=0.2)
    z = points("spline on circles", 40)
    x, log_det = transform(z)
    for k, lower, upper in ((1, -1.0, 2.0), (4, 0.0, 2 * math.pi)):
        assert bool(((x[:, k] >= lower) & (x[:, k] <= upper)).all())
        turned = z.clone()
        turned[:, k] += 3 * (upper - lower)
        again, log_det_again = transform(turned)
        assert distance("spline on circles", again, x) < 1e-12
        torch.testing.assert_close(log_det_again, log_det)
        low, high = z.clone(), z.clone()
        low[:, k], high[:, k] = lower, upper - 1e-13
        (x_low, log_low), (x_high, log_high) = transform(low), transform(high)
        assert distance("spline on circles", x_low, x_high) < 1e-10
        torch.testing.assert_close(log_low, log_high, atol=1e-7, rtol=0)


def test_a_circular_density_stays_normalised():
    """∫ exp(log |det|) over one period is one period, by the trapezoid rule."""
    transform = SplineCoupling(1, kinds=[("circle", 0.0, 1.0)])
    with torch.no_grad():
        transform.conditioner.last.bias += 0.5 * torch.randn(25, generator=seed(5), dtype=torch.float64)
    grid = torch.arange(20000, dtype=torch.float64).unsqueeze(-1) / 20000
    assert abs(transform(grid)[1].exp().mean().item() - 1) < 1e-6


@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_spline_of_one_bend_by_hand(slope):
    """Equal bins and one slope at the middle knot: at ξ = 1/2 of the first bin f = ½·(1 + d₀)/(2·(1 + (d₀ + d₁ − 2)/4))."""
    before_limit = MAX_LOG_SLOPE * math.atanh(math.log(slope) / MAX_LOG_SLOPE)
    log_slopes = torch.tensor([0.0, before_limit, 0.0], dtype=torch.float64)
    difference, log_slope = unit_spline(
        torch.tensor(0.25, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64), log_slopes
    )
    below = 1 + (slope - 1) / 4
    assert difference.item() + 0.25 == pytest.approx(0.5 * 0.5 / below)
    assert log_slope.exp().item() == pytest.approx((slope / 4 + 0.5 + 0.25) / below**2)


@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_of_the_spline(inverse):
    generator = seed(6)
    t = torch.rand(6, generator=generator, dtype=torch.float64, requires_grad=True)
    sizes = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    slopes = torch.randn(5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: unit_spline(*a, inverse=inverse), (t, sizes, slopes))


def test_gradients_through_the_inverse_of_a_residual_block():
    """The iteration is not differentiated; the implicit function is."""
    transform = Residual(3, hidden=(8,), context_dim=1)
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=seed(7), dtype=torch.float64)
    x = torch.randn(2, 3, generator=seed(8), dtype=torch.float64, requires_grad=True)
    context = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(transform.inverse, (x, context))
    weight = transform.first.weight
    z = torch.autograd.grad(transform.inverse(x, context)[0].sum(), weight)[0]
    step = 1e-6 * torch.ones_like(weight)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step
            values.append(transform.inverse(x, context)[0].sum())
            weight -= sign * step
    assert (values[0] - values[1]).item() / 2e-6 == pytest.approx(z.sum().item(), rel=1e-5)


def test_the_stochastic_log_det_is_unbiased():
    """Orthogonal weights make the slopes, and so the terms of the series, about as large as they may be."""
    transform = Residual(4, hidden=(4, 4), log_det="stochastic")
    with torch.no_grad():
        for layer in (transform.first, *transform.layers, transform.last):
            layer.weight.copy_(torch.linalg.qr(torch.randn(4, 4, generator=seed(9), dtype=torch.float64))[0])
            layer.bias += 1.0
        z = torch.randn(3, 4, generator=seed(11), dtype=torch.float64)
        transform.eval()
        exact = transform(z)[1]
        transform.train()
        draws = torch.stack([transform(z)[1] for _ in range(1500)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert exact.abs().min() > 0.05
    assert ((draws.mean(0) - exact).abs() < 4 * error).all()
    assert error.max() < 0.05


def test_a_residual_block_contracts_however_large_its_weights():
    transform = Residual(4, hidden=(32,))
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter += 10 * torch.randn(parameter.shape, generator=seed(12), dtype=torch.float64)
        z = torch.randn(100, 4, generator=seed(13), dtype=torch.float64)
        jacobian = torch.func.vmap(torch.func.jacrev(lambda v: transform(v)[0] - v))(z)
        assert torch.linalg.matrix_norm(jacobian, 2).max() < 0.9
        assert (transform.inverse(transform(z)[0])[0] - z).abs().max() < 1e-10


@pytest.mark.parametrize("shape", [(64, 64), (5, 64), (64, 3), (1, 1)])
def test_the_spectral_bound_is_above_and_near(shape):
    weight = torch.randn(shape, generator=seed(14), dtype=torch.float64)
    ratio = spectral_bound(weight) / torch.linalg.matrix_norm(weight, 2)
    assert 1 - 1e-12 < ratio < 1.04


@pytest.mark.parametrize("cls", [MaskedAutoregressive, InverseAutoregressive])
@pytest.mark.parametrize("map", ["affine", "spline"])
def test_autoregressive_means_triangular(cls, map):
    order = [2, 0, 3, 1]
    transform = cls(4, order=order, map=map, hidden=(16,))
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=seed(15), dtype=torch.float64)
    z = torch.randn(4, generator=seed(16), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: transform(v)[0], z)[order][:, order]
    assert jacobian.triu(1).abs().max() == 0
    assert (jacobian.tril(-1) != 0).sum() == 6


@pytest.mark.parametrize("cls", [AdditiveCoupling, AffineCoupling, SplineCoupling])
@pytest.mark.parametrize("context_dim", [0, 1])
def test_one_coordinate(cls, context_dim):
    transform = cls(1, context_dim=context_dim)
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter += 0.3
        z = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(-1)
        context = z if context_dim else None
        x, _ = transform(z, context)
        torch.testing.assert_close(transform.inverse(x, context)[0], z)
        assert (x != z).any()


@pytest.mark.parametrize("kind", ["spline", "affine", "additive", "maf", "iaf", "residual"])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_default_layers_move_every_coordinate_that_can(kind, dim):
    transforms = default_transforms(dim, kind=kind, num_layers=2, hidden=(8,))
    flow = Compose(transforms)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=seed(17), dtype=torch.float64)
        z = torch.randn(10, dim, generator=seed(18), dtype=torch.float64)
        assert ((flow(z)[0] - z).abs().max(0).values > 0).all()


def test_default_layers_with_nothing_to_move_are_none():
    assert default_transforms(2, kinds=[("discrete", 0, 1), ("discrete", 0, 4)]) == []
    kinds = [("circle", 0.0, 1.0), ("discrete", 0, 2)]
    assert all(isinstance(part, SplineCoupling) for part in default_transforms(2, kinds=kinds, kind="maf"))


def test_halves_separate_any_two_coordinates():
    halves = [set(moving_halves(range(11), layer)) for layer in range(8)]
    assert all(a | b == set(range(11)) and not a & b for a, b in zip(halves[::2], halves[1::2]))
    assert all(any((i in h) != (j in h) for h in halves) for i in range(11) for j in range(i))


def test_construction_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, second = (build("default spline").state_dict() for _ in range(2))
    build("residual")(points("residual", 3))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = SplineCoupling(2, generator=seed(20)).state_dict()
    assert not torch.equal(
        other["conditioner.layers.0.weight"], SplineCoupling(2).state_dict()["conditioner.layers.0.weight"]
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([0, 2], [1, 3]),
        ([1, 3], [0, 2]),
        ([0, 1], [2]),
        ([2], [0, 1]),
        ([3, 0], [2, 1]),
        ([0], []),
        ([1, 0], []),
        ([0, 2], [1]),
        ([0, 1, 4, 5], [2, 3, 6, 7]),
        ([2, 3, 6, 7], [0, 1, 4, 5]),
        ([1, 0, 4, 5], [2, 3, 6, 7]),
        ([3, 4, 5], [0, 1, 2]),
    ],
)
def test_columns_come_apart_and_together(first, second):
    z = torch.randn(5, len(first) + len(second), generator=seed(21))
    parts = Partition(first, second).split(z)
    assert torch.equal(parts[0], z[:, first])
    assert torch.equal(parts[1], z[:, second])
    assert torch.equal(Partition(first, second).join(*parts), z)


def test_many_categories_enter_as_one_number():
    few, many = (
        AffineCoupling(2, kinds=["real", ("discrete", 0, top)]) for top in (MAX_INDICATORS - 1, MAX_INDICATORS)
    )
    assert isinstance(few, Coupling)
    assert (few.features.size, many.features.size) == (MAX_INDICATORS, 1)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: AffineCoupling(2, kinds=[("circle", 0, 1), "real"], moved=[0]), "real coordinates to move"),
        (lambda: AffineCoupling(2, moved=[0, 0]), "distinct positions"),
        (lambda: AffineCoupling(2, kinds=["real"]), "expected 2 kinds; got 1"),
        (lambda: AffineCoupling(2, kinds=["real", "angle"]), "got 'angle'"),
        (lambda: AffineCoupling(2, kinds=["real", ("circle", 1, 1)]), "circle"),
        (lambda: AffineCoupling(2, scale=[1.0, 2.0, 3.0]), "`scale` to be 2 finite numbers"),
        (lambda: AffineCoupling(2, scale=[1.0, 0.0]), "`scale` to be positive"),
        (lambda: AffineCoupling(0), "positions"),
        (lambda: AffineCoupling(2, activation="sine"), "activation"),
        (lambda: SplineCoupling(2, bins=1), "2 to 128 `bins`"),
        (lambda: Residual(2, contraction=1.0), "contraction"),
        (lambda: Residual(1, kinds=[("discrete", 0, 1)]), "a real coordinate"),
        (lambda: MaskedAutoregressive(2, order=[0, 0]), "an order"),
        (lambda: Permutation(2, order=[0, 2]), "each of 0, ..., 1 once"),
        (lambda: Compose([]), "one dimension"),
        (lambda: Compose([AffineCoupling(2), AffineCoupling(3)]), "one dimension"),
        (lambda: Compose([AffineCoupling(2, context_dim=1), AffineCoupling(2, context_dim=2)]), "one context"),
        (lambda: default_transforms(2, kind="glow"), "got 'glow'"),
        (lambda: from_spec({"class": "Glow"}), "got 'Glow'"),
    ],
)
def test_bad_arguments(make, match):
    with pytest.raises(ValueError, match=match):
        make()
