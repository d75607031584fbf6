"""One table of bases x every operation, against dense quadrature and autograd."""

import math

import numpy as np
import pytest
import torch

from ttvi.errors import SupportError
from ttvi.tt.basis import Categorical, Fourier, Hermite, Legendre, Piecewise, from_spec

BASES = {
    "legendre": Legendre(-1.5, 2.0, size=12),
    "legendre-1": Legendre(0.0, 1.0, size=1),
    "legendre-60": Legendre(-3.0, 3.0, size=60),
    "fourier-odd": Fourier(-math.pi, math.pi, size=11),
    "fourier-even": Fourier(0.0, 1.0, size=12),
    "hermite": Hermite(0.7, 1.3, size=14),
    "hermite-50": Hermite(size=50),
    "piecewise": Piecewise(-1.0, 3.0, size=24),
    "piecewise-linear": Piecewise(-1.0, 3.0, size=10, degree=1),
    "categorical": Categorical(5),
}
CONTINUOUS = {name: basis for name, basis in BASES.items() if not basis.discrete}


def quadrature(basis, panels=240, order=20):
    """Composite Gauss rule over the support (or where Hermite functions live), independent of the basis' own nodes."""
    if isinstance(basis, Hermite):
        reach = basis.scale * (math.sqrt(2 * basis.size) + 9)
        lower, upper = basis.loc - reach, basis.loc + reach
    else:
        lower, upper = basis.lower, basis.upper
    t, w = np.polynomial.legendre.leggauss(order)
    h = (upper - lower) / panels
    x = lower + h * (np.arange(panels)[:, None] + (t + 1) / 2)
    return torch.as_tensor(x.reshape(-1)), torch.as_tensor(np.tile(w * h / 2, panels))


def inside(basis, count, generator):
    u = 0.001 + 0.998 * torch.rand(count, generator=generator, dtype=torch.float64)
    if isinstance(basis, Hermite):
        return basis.loc + basis.scale * 2.5 * (2 * u - 1)
    return basis.reference_icdf(u)


@pytest.mark.parametrize("basis", CONTINUOUS.values(), ids=CONTINUOUS)
def test_orthonormal(basis):
    x, w = quadrature(basis)
    phi = basis(x)
    torch.testing.assert_close(
        phi.T @ (phi * w[:, None]), torch.eye(basis.size, dtype=torch.float64), atol=1e-11, rtol=0
    )


@pytest.mark.parametrize("basis", BASES.values(), ids=BASES)
def test_interpolates_at_the_nodes(basis):
    if isinstance(basis, Fourier) and basis.size % 2 == 0:
        pytest.skip("the Nyquist cosine of an even size is orthonormal, not interpolating")
    phi = basis(basis.nodes()) * basis.weights().sqrt()[:, None]
    torch.testing.assert_close(phi, torch.eye(basis.size, dtype=torch.float64), atol=1e-11, rtol=0)


@pytest.mark.parametrize("basis", CONTINUOUS.values(), ids=CONTINUOUS)
def test_integrals_and_multiplication(basis):
    x, w = quadrature(basis)
    phi = basis(x)
    torch.testing.assert_close(basis.integrals(), w @ phi, atol=1e-11, rtol=1e-11)
    for power in (0, 1, 2):
        expected = phi.T @ (phi * (w * x**power)[:, None])
        torch.testing.assert_close(basis.multiplication(power), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("basis", CONTINUOUS.values(), ids=CONTINUOUS)
def test_derivative_against_autograd(basis):
    generator = torch.Generator().manual_seed(1)
    x = inside(basis, 7, generator).requires_grad_()
    jacobian = torch.autograd.functional.jacobian(lambda y: basis(y).sum(0), x).T
    torch.testing.assert_close(basis.derivative(x.detach()), jacobian, atol=1e-9, rtol=1e-9)
    assert torch.autograd.gradcheck(basis, x)
    assert torch.autograd.gradgradcheck(basis, x)


@pytest.mark.parametrize("basis", [Legendre(-1, 1, size=9), Piecewise(-1, 1, size=8)], ids=["legendre", "piecewise"])
def test_gradient_is_finite_at_both_ends(basis):
    x = torch.tensor([-1.0, 1.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(basis(x).sum(), x)
    torch.testing.assert_close(gradient, basis.derivative(x.detach()).sum(-1))


@pytest.mark.parametrize("basis", BASES.values(), ids=BASES)
def test_interpolate_is_a_contraction(basis):
    generator = torch.Generator().manual_seed(2)
    x = inside(basis, 6, generator)
    coefficients = torch.randn(6, basis.size, 3, generator=generator, dtype=torch.float64)
    expected = torch.einsum("bn,bnr->br", basis(x), coefficients)
    torch.testing.assert_close(basis.interpolate(x, coefficients), expected)


@pytest.mark.parametrize("terms", [1, 3])
@pytest.mark.parametrize("basis", CONTINUOUS.values(), ids=CONTINUOUS)
def test_square_integral_against_quadrature(basis, terms):
    generator = torch.Generator().manual_seed(3)
    coefficients = torch.randn(4, basis.size, terms, generator=generator, dtype=torch.float64)
    integral = basis.square_integral(coefficients)
    norms = coefficients.square().sum((1, 2))
    torch.testing.assert_close(integral.total, norms, rtol=1e-11, atol=1e-11)
    points = inside(basis, 4, generator)
    x, w = quadrature(basis, panels=2000, order=12)
    density = torch.einsum("xn,bnm->bxm", basis(x), coefficients).square().sum(-1)
    below = (x[None] <= points[:, None]).to(x.dtype)
    value, slope = integral.evaluate(points)
    torch.testing.assert_close(value, (density * below * w).sum(-1), rtol=0, atol=2e-2 * float(norms.max()))
    step = 1e-4
    numerical = (integral(points + step) - integral(points - step)) / (2 * step)
    exact = torch.einsum("bn,bnm->bm", basis(points), coefficients).square().sum(-1)
    torch.testing.assert_close(slope, exact, rtol=1e-8, atol=1e-8)
    if not isinstance(basis, Piecewise):
        torch.testing.assert_close(numerical, exact, rtol=1e-3, atol=1e-3 * float(exact.max()))


@pytest.mark.parametrize("share", [None, 0.9])
@pytest.mark.parametrize("terms", [1, 4])
@pytest.mark.parametrize("basis", CONTINUOUS.values(), ids=CONTINUOUS)
def test_inverse_to_full_precision(basis, terms, share):
    generator = torch.Generator().manual_seed(4)
    batch = 2000
    coefficients = torch.randn(batch, basis.size, terms, generator=generator, dtype=torch.float64)
    if terms == 1:  # narrow, with double zeros: what a bracketed iteration is for
        coefficients *= torch.exp(-torch.linspace(0, 6, basis.size, dtype=torch.float64))[:, None]
    integral = basis.square_integral(coefficients)
    u = torch.rand(batch, generator=generator, dtype=torch.float64)
    u[:4] = torch.tensor([1e-13, 1e-6, 1 - 1e-6, 1 - 1e-13], dtype=torch.float64)
    weight = None if share is None else torch.full((batch,), share, dtype=torch.float64)
    x = integral.inverse(u, share=weight)
    level = integral(x) / integral.total
    if share is not None:
        level = share * level + (1 - share) * basis.reference_cdf(x)
    torch.testing.assert_close(level, u, rtol=0, atol=2e-13)
    assert basis.support.check(x).all()


def test_categorical_square():
    basis = Categorical(3)
    coefficients = torch.tensor([[[1.0], [2.0], [2.0]]], dtype=torch.float64).expand(5, 3, 1)
    integral = basis.square_integral(coefficients)
    u = torch.tensor([0.05, 0.12, 0.5, 0.6, 0.99], dtype=torch.float64)
    assert integral.inverse(u).tolist() == [0, 1, 1, 2, 2]
    middle = integral(torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(middle, torch.tensor([0.5, 3.0, 7.0, 0.5, 3.0], dtype=torch.float64))


@pytest.mark.parametrize("basis", BASES.values(), ids=BASES)
def test_modal_coefficients_are_isometric(basis):
    generator = torch.Generator().manual_seed(5)
    coefficients = torch.randn(basis.size, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(basis.modal(coefficients).norm(), coefficients.norm())


def test_modal_coefficients_decay_for_smooth_functions():
    for basis in (Legendre(-1, 1, size=30), Fourier(-math.pi, math.pi, size=31), Hermite(size=30)):
        x = basis.nodes()
        values = torch.exp(torch.sin(x)) if basis.periodic else torch.exp(-((x - 0.2) ** 2) / 2)
        modes = basis.modal(values * basis.weights().sqrt()).abs()
        assert modes[-4:].max() < 1e-9 * modes.max()


@pytest.mark.parametrize("basis", BASES.values(), ids=BASES)
def test_float32_and_spec(basis):
    x = basis.nodes(dtype=torch.float32)
    assert basis(x).dtype == torch.float32
    torch.testing.assert_close(basis(x).double(), basis(x.double()), atol=2e-3, rtol=1e-3)
    assert from_spec(basis.spec()) == basis


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Legendre(1.0, -1.0, size=4), "lower < upper"),
        (lambda: Piecewise(0.0, math.inf), "lower < upper"),
        (lambda: Fourier(0.0, 0.0), "lower < upper"),
        (lambda: Hermite(0.0, -1.0), "positive finite scale"),
    ],
)
def test_bad_supports_are_refused(build, message):
    with pytest.raises(SupportError, match=message):
        build()


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Legendre(0.0, 1.0, size=0)
    with pytest.raises(ValueError, match="size=None"):
        Legendre(0.0, 1.0).nodes()
    with pytest.raises(ValueError, match="one category"):
        Categorical(0)
