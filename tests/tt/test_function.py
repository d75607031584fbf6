"""Functions as trains: closed forms, dense quadrature and autograd, one table of surrogates x every operation."""

import math

import pytest
import torch
from torch.distributions import Beta, Exponential, Normal, Uniform
from torch.distributions import Categorical as Finite

import ttvi.tt
from ttvi.errors import ConvergenceWarning, EvaluationError, SupportError
from ttvi.tt import Categorical, CrossOptions, Fourier, Hermite, Legendre, Piecewise, TensorTrain, TTFunction

UNIT = Legendre(0.0, 1.0, size=12)
DOUBLE = torch.float64


def sine(x):
    return torch.sin(x.sum(-1))


def points(bases, count, seed=0):
    """Random points in the middle of the supports."""
    u = 0.02 + 0.96 * torch.rand(count, len(bases), dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
    columns = [2 * u[:, k] - 1 if isinstance(b, Hermite) else b.reference_icdf(u[:, k]) for k, b in enumerate(bases)]
    return torch.stack(columns, 1)


def grid(bases):
    """All nodes and their weights, from dense products."""
    x = torch.stack(torch.meshgrid(*(b.nodes() for b in bases), indexing="ij"), -1)
    w = torch.ones(())
    for b in bases:
        w = w.unsqueeze(-1) * b.weights()
    return x, w


# name: (function, bases); each of them lies (almost) in the span of the bases
CASES = {
    "sine": (sine, [UNIT] * 4),
    "odd": (lambda x: x[..., 0] * x[..., 1] ** 3 * x[..., 2], [Legendre(-1.0, 1.0, size=5)] * 3),
    "circle": (lambda x: torch.cos(x[..., 0] - 2 * x[..., 1]) + 0.5, [Fourier(-math.pi, math.pi, size=9)] * 2),
    "line": (lambda x: (x[..., 0] + x[..., 1] * x[..., 2]) * torch.exp(-x.square().sum(-1) / 2), [Hermite(size=6)] * 3),
    "pieces": (
        lambda x: x[..., 0] ** 2 - x[..., 0] * x[..., 1],
        [Piecewise(0.0, 2.0, size=12), Piecewise(-1.0, 1.0, size=8)],
    ),
    "mixed": (
        lambda x: (1 + x[..., 0]) * torch.sin(x[..., 1]) - x[..., 2],
        [Categorical(3), Fourier(0.0, 2 * math.pi, size=5), Legendre(-2.0, 1.0, size=3)],
    ),
    "one": (lambda x: torch.exp(x[..., 0]), [Legendre(0.0, 1.0, size=14)]),
}


@pytest.fixture(params=CASES, scope="module")
def case(request):
    function, bases = CASES[request.param]
    return function, bases, TTFunction.fit(function, bases, tol=1e-10, seed=1)


def close(got, wanted, tol=1e-9):
    torch.testing.assert_close(
        torch.as_tensor(got, dtype=DOUBLE), torch.as_tensor(wanted, dtype=DOUBLE), rtol=tol, atol=tol
    )


# -- one table of surrogates x every operation -------------------------------------------------------------------------


def test_values(case):
    function, bases, f = case
    x = points(bases, 60)
    assert f.info.converged
    assert f.info.error < 1e-9
    close(f(x), function(x))
    close(f(x.view(3, 20, -1)), function(x).view(3, 20))
    close(f(x[0]), function(x[0]))
    assert f(x[:0]).shape == (0,)


def test_gradient_is_the_one_of_autograd(case):
    function, bases, f = case
    x = points(bases, 5).requires_grad_(True)
    (wanted,) = torch.autograd.grad(f(x).sum(), x)
    close(f.gradient(x), wanted)
    (exact,) = torch.autograd.grad(function(x).sum(), x)
    smooth = [k for k, b in enumerate(bases) if not b.discrete]
    close(f.gradient(x)[:, smooth], exact[:, smooth], 1e-7)


def test_integrals(case):
    function, bases, f = case
    if isinstance(bases[0], Hermite):
        wide = [Legendre(-12.0, 12.0, size=90)] * 2  # the integral over the last coordinate, then the others
        x, w = grid(wide)
        for z in (0.0, 0.7):
            full = torch.cat([x, torch.full_like(x[..., :1], z)], -1)
            close(f.partial({2: z}).integral(), (function(full) * w).sum())
        return
    x, w = grid(bases)
    close(f.integral(), (function(x) * w).sum(), 1e-10)
    close(f.norm(), (function(x).square() * w).sum().sqrt(), 1e-10)
    if f.dim > 1:
        rest = f.integral([-1])
        wanted = (function(x) * bases[-1].weights()).sum(-1)
        close(rest(x[..., 0, :-1]), wanted)
        close(rest.integral(), f.integral())


def test_moments_under_the_default_measure(case):
    function, bases, f = case
    if isinstance(bases[0], Hermite):  # z = x^2 terms of a standard normal, by the closed form of Gaussian integrals
        close(f.mean(), 0.0)
        close(f.variance(), 3**-1.5 * (3**-0.5) ** 2 + 3**-0.5 * (3**-1.5) ** 2)
        return
    x, w = grid([b.with_size(2 * b.size) for b in bases])
    w = w / w.sum()
    mean = (function(x) * w).sum()
    close(f.mean(), mean)
    close(f.variance(), ((function(x) - mean).square() * w).sum())


def test_partial(case):
    function, bases, f = case
    if f.dim == 1:
        with pytest.raises(ValueError, match="Call the function instead"):
            f.partial({0: 0.5})
        return
    x = points(bases, 20)
    fixed = {0: float(x[3, 0])} if f.dim == 2 else {0: float(x[3, 0]), -1: x[3, -1]}
    for k, value in fixed.items():
        x[:, k] = value
    rest = [k for k in range(f.dim) if k not in {j % f.dim for j in fixed}]
    close(f.partial(fixed)(x[:, rest]), function(x))


def test_products_are_exact(case):
    function, bases, f = case
    x = points(bases, 30)
    close((f * f)(x), function(x) ** 2)
    close((f**3)(x), function(x) ** 3)
    close(f.inner(f), f.norm() ** 2)


def test_sums(case):
    function, bases, f = case
    x = points(bases, 30)
    y = function(x)
    close((2 * f - f / 4 + (-f))(x), 0.75 * y)
    assert (f + f).ranks == f.ranks
    assert float((f - f).norm()) < 1e-12
    assert max((f - f).ranks) == 1
    if isinstance(bases[0], Hermite):
        with pytest.raises(ValueError, match="Hermite"):
            f + 1.0
        return
    close((1 - f)(x), 1 - y)
    close((f + torch.tensor(2.0) - 0.5)(x), y + 1.5)
    if not isinstance(bases[0], Piecewise):
        close((f * f + f)(x), y**2 + y)  # bases of different sizes


def test_saved_and_converted(case, tmp_path):
    function, bases, f = case
    x = points(bases, 10)
    f.save(tmp_path / "f.safetensors")
    loaded = TTFunction.load(tmp_path / "f.safetensors")
    assert loaded.bases == f.bases
    close(loaded(x), f(x), 1e-13)
    close(f.to(dtype=torch.float32)(x), function(x), 1e-4)
    nodes, _ = grid(bases)
    close(TTFunction.from_values(function(nodes), bases)(x), function(x))
    close(TTFunction.from_tntorch(f.to_tntorch(), bases)(x), function(x))
    close(f.to_tntorch().torch(), function(nodes))


def test_differentiable_twice_and_in_the_cores():
    f = TTFunction.fit(sine, [Legendre(0.0, 1.0, size=6)] * 3, tol=1e-4, seed=0)
    x = points(f.bases, 3).requires_grad_(True)
    assert torch.autograd.gradcheck(f, x)
    assert torch.autograd.gradgradcheck(f, x)
    assert torch.autograd.gradcheck(f.gradient, x)
    cores = [core.clone().requires_grad_(True) for core in f.train.cores]
    assert torch.autograd.gradcheck(
        lambda *c: TTFunction(TensorTrain(c, f.train.log_scale), f.bases)(x.detach()), cores
    )


# -- closed forms ------------------------------------------------------------------------------------------------------

A = torch.tensor([0.7, 1.1, 0.4, 0.9, 0.6], dtype=DOUBLE)


def corner_peak_integral(a):
    """Inclusion and exclusion over the corners of the cube (Genz 1984)."""
    d, total = len(a), 0.0
    for mask in range(2**d):
        bits = torch.tensor([mask >> k & 1 for k in range(d)], dtype=DOUBLE)
        total += (-1) ** int(bits.sum()) / float(1 + (a * bits).sum())
    return total / (math.factorial(d) * float(a.prod()))


GENZ = {
    "oscillatory": (
        lambda x: torch.cos(0.3 + x @ A),
        float(
            (
                torch.exp(0.3j * torch.ones((), dtype=torch.complex128)) * ((torch.exp(1j * A) - 1) / (1j * A)).prod()
            ).real
        ),
    ),
    "corner peak": (lambda x: (1 + x @ A) ** -6, corner_peak_integral(A)),
    "product peak": (
        lambda x: (1 / (A**-2 + (x - 0.4) ** 2)).prod(-1),
        float((A * (torch.atan(A * 0.6) + torch.atan(A * 0.4))).prod()),
    ),
    "gaussian": (
        lambda x: torch.exp(-(A**2 * (x - 0.4) ** 2).sum(-1)),
        float((math.sqrt(math.pi) / 2 / A * (torch.erf(A * 0.6) + torch.erf(A * 0.4))).prod()),
    ),
}


@pytest.mark.parametrize(("function", "wanted"), GENZ.values(), ids=GENZ)
def test_genz_integrals_to_ten_digits(function, wanted):
    f = TTFunction.fit(function, [Legendre(0.0, 1.0, size=24)] * 5, tol=1e-11, seed=0)
    assert abs(float(f.integral()) - wanted) < 1e-10 * max(1.0, abs(wanted))


def test_sine_of_a_sum_has_rank_two_in_any_dimension():
    f = TTFunction.fit(sine, [UNIT] * 12, tol=1e-10, seed=0)
    assert set(f.ranks[1:-1]) == {2}
    moment = ((torch.exp(torch.tensor(1j, dtype=torch.complex128)) - 1) / 1j) ** 12
    double = ((torch.exp(torch.tensor(2j, dtype=torch.complex128)) - 1) / 2j) ** 12
    close(f.integral(), moment.imag, 1e-10)
    close(f.variance(), 0.5 - 0.5 * double.real - moment.imag**2, 1e-10)
    assert f.info.num_evaluations < 40_000


def test_zero_mean_everywhere_is_found():
    """All one- and two-dimensional means vanish: only joint information finds this function."""
    f = TTFunction.fit(lambda x: (x - 0.5).prod(-1), [UNIT] * 6, tol=1e-10, seed=0)
    assert max(f.ranks) == 1
    close(f.mean(), 0.0, 1e-15)
    close(f.variance(), 12.0**-6, 1e-12)


def test_small_variance_around_a_large_mean():
    f = 1e6 + 1e-3 * TTFunction.fit(lambda x: x[..., 0] - 0.5, [UNIT] * 2, tol=1e-10, seed=0)
    assert abs(float(f.variance()) * 12e6 - 1) < 1e-5  # mean of squares minus square of mean would keep no digit


def test_zero_function():
    f = TTFunction.fit(lambda x: torch.zeros_like(x[:, 0]), [UNIT] * 3, seed=0)
    assert f.info.converged
    assert f.ranks == (1, 1, 1, 1)
    assert float(f(points(f.bases, 3)).abs().max()) == 0
    assert float((f + f).norm()) == float(f.variance()) == 0


def test_sharp_signed_feature_between_flat_regions():
    """Errors are seen where the function is (nearly) zero as well as on its peak."""
    bases = [Legendre(0.0, 1.0, size=48)] * 3
    f = TTFunction.fit(lambda x: (x[:, 0] - 0.7) * torch.exp(-80 * (x - 0.7).square().sum(-1)), bases, tol=1e-8, seed=0)
    assert f.info.converged
    x = points(bases, 400)
    assert float((f(x) - (x[:, 0] - 0.7) * torch.exp(-80 * (x - 0.7).square().sum(-1))).abs().max()) < 1e-8


# -- measures ----------------------------------------------------------------------------------------------------------


def scalar(value):
    return torch.tensor(value, dtype=DOUBLE)


def test_moments_under_given_measures():
    f = TTFunction.fit(lambda x: x[:, 0] * x[:, 1] ** 2, [Legendre(0.0, 1.0, size=4)] * 2, seed=0)
    beta, part = Beta(scalar(0.5), scalar(0.7)), Uniform(scalar(0.2), scalar(0.5))
    square = float(beta.variance + beta.mean**2)
    close(f.mean([part, beta]), 0.35 * square, 1e-8)
    close(f.mean([None, (torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0]))]), 0.5 * 0.75)
    pieces = TTFunction.fit(lambda x: x[:, 0], [Piecewise(0.0, 3.0, size=12)], seed=0)
    close(pieces.variance([Uniform(scalar(0.3), scalar(2.9))]), 2.6**2 / 12)


def test_moments_on_the_line_and_on_finite_sets():
    f = TTFunction.fit(
        lambda x: x[:, 0] * torch.exp(-(x[:, 0] ** 2) / 2) * x[:, 1], [Hermite(size=4), Categorical(3)], seed=0
    )
    chosen = Finite(torch.tensor([0.5, 0.25, 0.25], dtype=DOUBLE))
    wide = Normal(scalar(0.0), scalar(2.0))
    close(f.mean([wide, chosen]), 0.0)
    close(f.variance([wide, chosen]), (2.0**2 / 9**1.5) * 1.25)  # E x² exp(-x²) = s² / (1 + 2 s²)^(3/2)
    # E x exp(-x²/2) of an exponential variable, the integral by parts
    close(
        f.mean([Exponential(scalar(1.0)), chosen]),
        0.75 * (1 - math.exp(0.5) * math.sqrt(math.pi / 2) * math.erfc(0.5**0.5)),
        1e-8,
    )


def test_measures_outside_the_support():
    f = TTFunction.fit(sine, [UNIT] * 2, seed=0)
    with pytest.raises(SupportError, match="does not. Widen the basis"):
        f.mean([Normal(0.0, 1.0), None])
    with pytest.raises(ValueError, match="one measure per coordinate"):
        f.variance([None])
    with pytest.raises(TypeError, match="univariate distribution"):
        f.mean(["uniform", None])


# -- extrema -----------------------------------------------------------------------------------------------------------


def test_argmax_in_the_interior_and_argmin_on_the_boundary():
    centre = torch.tensor([0.3, 0.62, 0.45, 0.8], dtype=DOUBLE)
    f = TTFunction.fit(
        lambda x: torch.exp(-4 * (x - centre).square().sum(-1)) - 5, [Legendre(0.0, 1.0, size=18)] * 4, tol=1e-9, seed=0
    )
    x, value = f.argmax(seed=0)
    close(value, -4.0, 1e-8)
    close(x, centre, 1e-4)
    x, _ = f.argmin(seed=0)
    assert torch.allclose(x, (centre < 0.5).to(DOUBLE), atol=1e-4)


def test_argmax_among_many_maxima():
    """Rastrigin: 9^3 local maxima of about the same height, the best one at the origin."""

    def rastrigin(x):
        return -(x.square() - 10 * torch.cos(2 * math.pi * x)).sum(-1)

    f = TTFunction.fit(rastrigin, [Legendre(-4.3, 4.0, size=60)] * 3, tol=1e-9, seed=0)
    x, value = f.argmax(seed=0)
    close(x, torch.zeros(3), 1e-6)
    close(value, 30.0, 1e-6)


def test_argmax_of_finite_and_periodic_coordinates():
    function, bases = CASES["mixed"]
    x, value = TTFunction.fit(function, bases, tol=1e-10, seed=0).argmax(seed=0)
    close(x, [2.0, math.pi / 2, -2.0], 1e-6)
    close(value, 5.0)


# -- scattered data ----------------------------------------------------------------------------------------------------


def test_regression_down_to_the_noise():
    generator = torch.Generator().manual_seed(0)
    bases = [Legendre(0.0, 1.0, size=8)] * 6
    x = torch.rand(1500, 6, dtype=DOUBLE, generator=generator)
    clean = sine(x)
    size = clean.square().mean().sqrt()
    noisy = clean + 0.02 * size * torch.randn(len(x), dtype=DOUBLE, generator=generator)
    f = TTFunction.from_data(x, noisy, bases, seed=0)
    assert 0.015 < f.info.error < 0.03
    assert max(f.ranks) <= 4
    fresh = points(bases, 1000, seed=3)
    assert float((f(fresh) - sine(fresh)).square().mean().sqrt() / size) < 0.01  # the noise is averaged out
    assert f.info.num_held_out == 150
    assert f.info.history[-1].error > 0


def test_regression_without_noise_converges():
    x = 2 * torch.rand(600, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)) - 1
    y = x[:, 0] * x[:, 1] - x[:, 2] * x[:, 3] + 3
    f = TTFunction.from_data(x, y, [Legendre(-1.0, 1.0, size=4)] * 4, seed=0, tol=1e-5)
    assert f.info.status == "converged"
    assert "within tol" in f.info.message
    assert max(f.ranks) <= 3
    close(f.mean(), 3.0, 1e-4)
    again = TTFunction.from_data(x, y, [Legendre(-1.0, 1.0, size=4)] * 4, seed=0, tol=1e-5)
    assert torch.equal(again.train.cores[1], f.train.cores[1])


def test_regression_on_mixed_coordinates_in_single_precision():
    generator = torch.Generator().manual_seed(0)
    x = torch.stack([torch.randint(3, (800,), generator=generator), 6.28 * torch.rand(800, generator=generator)], 1)
    f = TTFunction.from_data(
        x, (1 + x[:, 0]) * torch.sin(x[:, 1]), [Categorical(3), Fourier(0.0, 2 * math.pi)], seed=0, tol=1e-3
    )
    assert f.dtype == torch.float32
    assert f.info.error < 1e-3
    assert abs(float(f(torch.tensor([2.0, 1.0]))) - 3 * math.sin(1.0)) < 0.02


def test_regression_says_when_the_rank_is_too_low():
    x = torch.rand(1500, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    with pytest.warns(ConvergenceWarning, match="max_rank=1"):
        f = TTFunction.from_data(
            x, sine(3 * x), [Legendre(0.0, 1.0, size=8)] * 4, max_rank=1, regularization=1e-6, seed=0
        )
    assert f.info.status == "rank-limited"
    assert f.info.regularization == 1e-6


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"y": torch.zeros(9)}, ValueError, r"y of shape \(m,\)"),
        ({"x": torch.full((10, 2), 1.5)}, SupportError, "Widen the basis"),
        ({"y": torch.full((10,), math.nan)}, ValueError, "Drop those rows"),
        ({"validation": 1.0}, ValueError, "0 < validation < 1"),
        ({"max_rank": 0}, ValueError, "max_rank >= 1"),
        ({"x": [[0.0]]}, TypeError, "torch.as_tensor"),
    ],
)
def test_regression_checks_its_arguments(change, error, match):
    arguments = {"x": torch.rand(10, 2), "y": torch.rand(10), **change}
    with pytest.raises(error, match=match):
        TTFunction.from_data(arguments.pop("x"), arguments.pop("y"), [UNIT] * 2, **arguments)


# -- tntorch -----------------------------------------------------------------------------------------------------------


def test_sobol_indices_of_ishigami_through_tntorch():
    tntorch = pytest.importorskip("tntorch")

    def ishigami(x):
        return torch.sin(x[:, 0]) * (1 + 0.1 * x[:, 2] ** 4) + 7 * torch.sin(x[:, 1]) ** 2

    f = TTFunction.fit(ishigami, [Legendre(-math.pi, math.pi)] * 3, tol=1e-9, seed=0)  # sizes are chosen
    variance = 49 / 8 + math.pi**4 / 50 + math.pi**8 / 1800 + 0.5
    close(f.mean(), 3.5)
    close(f.variance(), variance)
    first, second, third = tntorch.symbols(3)
    wanted = [
        (tntorch.only(first), 0.5 * (1 + math.pi**4 / 50) ** 2 / variance),
        (tntorch.only(second), 49 / 8 / variance),
        (tntorch.only(third), 0.0),
        (tntorch.only(first & third), (math.pi**8 / 1800 - math.pi**8 / 5000) / variance),
    ]
    for mask, value in wanted:
        close(tntorch.sobol(f.to_tntorch(), mask, marginals=f.node_weights()), value, 1e-8)
        # Without marginals tntorch computes in the default dtype.
        close(tntorch.sobol(f.to(dtype=torch.get_default_dtype()).to_tntorch(128), mask), value, 2e-3)


def test_tntorch_on_points_of_choice():
    f = TTFunction.fit(sine, [UNIT] * 2, tol=1e-9, seed=0)
    x = torch.tensor([0.1, 0.5, 0.9], dtype=DOUBLE)
    close(f.to_tntorch([x, x]).torch(), torch.sin(x[:, None] + x))
    with pytest.raises(ValueError, match="2 one-dimensional"):
        f.to_tntorch([x])
    with pytest.raises(TypeError, match="tntorch.Tensor"):
        TTFunction.from_tntorch(f.train, f.bases)


# -- fits that do not go well ------------------------------------------------------------------------------------------


def test_not_a_number_is_an_error_that_keeps_what_was_paid_for():
    with pytest.raises(EvaluationError, match="finite values") as caught:
        TTFunction.fit(
            lambda x: torch.where(x[:, 0] > 0.999, torch.nan, sine(x)), [Legendre(0.0, 1.0, size=60)] * 3, seed=0
        )
    assert caught.value.info.num_evaluations > 0
    assert caught.value.info.points().shape == (caught.value.info.num_evaluations, 3)


@pytest.mark.parametrize("budget", [5, 500, 3000])
def test_budget_is_kept_and_reported(budget):
    count = 0

    def counted(x):
        nonlocal count
        count += len(x)
        return 1 / (1 + x.sum(-1))

    with pytest.warns(ConvergenceWarning, match="budget exhausted"):
        f = TTFunction.fit(counted, [UNIT] * 6, tol=1e-10, budget=budget, seed=0)
    assert count == f.info.num_evaluations <= budget
    assert bool(torch.isfinite(f(points(f.bases, 4))).all())


def test_rank_limit_and_basis_limit_are_reported():
    with pytest.warns(ConvergenceWarning, match="max_rank=2"):
        f = TTFunction.fit(lambda x: 1 / (0.1 + x.sum(-1)), [UNIT] * 4, tol=1e-8, max_rank=2, seed=0)
    assert f.info.status == "rank-limited"
    assert f.info.error > 1e-4
    with pytest.warns(ConvergenceWarning, match="between them"):
        f = TTFunction.fit(lambda x: torch.sin(20 * x.sum(-1)), [Legendre(0.0, 1.0, size=8)] * 3, tol=1e-8, seed=0)
    assert f.info.status == "basis-limited"
    assert f.info.error > 1e-3


def test_sizes_are_chosen_and_runs_repeat():
    bases = [Legendre(0.0, 1.0), Fourier(0.0, 1.0), Categorical(2)]

    def function(x):
        return torch.exp(x[:, 0]) * torch.sin(2 * math.pi * x[:, 1] * 3) + x[:, 2]

    f = TTFunction.fit(function, bases, tol=1e-9, seed=5)
    assert f.info.converged
    assert f.info.error < 1e-8
    assert all(8 <= b.size <= 40 for b in f.bases[:2])
    again = TTFunction.fit(function, bases, tol=1e-9, seed=5)
    assert torch.equal(again.train.cores[0], f.train.cores[0])


def test_single_precision():
    f = TTFunction.fit(sine, [UNIT] * 4, dtype=torch.float32, tol=1e-5, seed=0)
    assert f.dtype == f.gradient(torch.rand(3, 4)).dtype == torch.float32
    assert f.info.converged
    x = points(f.bases, 20)
    close((f * f + f)(x), sine(x) ** 2 + sine(x), 1e-4)


def test_rounding_and_other_bases():
    f = TTFunction.fit(lambda x: 1 / (1 + x.sum(-1)), [UNIT] * 4, tol=1e-10, seed=0)
    coarse = f.truncate(tol=1e-3)
    assert max(coarse.ranks) < max(f.ranks)
    assert float((f - coarse).norm() / f.norm()) < 1e-3
    assert f.truncate(max_rank=2).ranks == (1, 2, 2, 2, 1)
    x = points(f.bases, 10)
    close(f.resample([Legendre(0.0, 1.0, size=30)] * 4)(x), f(x))


def test_outside_the_support():
    f = TTFunction.fit(sine, [UNIT, Fourier(0.0, 2 * math.pi, size=5)], seed=0)
    x = torch.tensor([[0.5, 0.5], [1.5, 0.5], [0.5, 0.5 + 2 * math.pi]], dtype=DOUBLE)
    assert f(x).isnan().tolist() == [False, True, False]
    assert f.gradient(x).isnan().all(1).tolist() == [False, True, False]
    with pytest.raises(SupportError, match="coordinate 0"):
        f.partial({0: 2.0})


def test_errors_name_the_remedy():
    f = TTFunction.fit(sine, [UNIT] * 2, seed=0)
    other = TTFunction.fit(sine, [Legendre(0.0, 2.0, size=12)] * 2, seed=0)
    with pytest.raises(ValueError, match="resample"):
        f + other
    with pytest.raises(ValueError, match="equally many"):
        f * f.partial({0: 0.5})
    with pytest.raises(TypeError):
        f / other
    with pytest.raises(TypeError):
        f**0.5
    with pytest.raises(ValueError, match="One column per coordinate"):
        f(torch.zeros(3, 3))
    with pytest.raises(IndexError, match=r"integral: expected positions in \[0, 2\); got 2"):
        f.integral([2])
    with pytest.raises(ValueError, match="Name each coordinate once"):
        f.partial({0: 0.5, -2: 0.5})
    with pytest.raises(ValueError, match="Evaluate at all nodes"):
        TTFunction.from_values(torch.zeros(3, 3), [UNIT] * 2)
    with pytest.raises(ValueError, match="bases that the coefficients belong to"):
        TTFunction(f.train, [UNIT])
    with pytest.raises(ValueError, match="Return one value"):
        TTFunction.fit(lambda x: x.sum(), [UNIT] * 2, seed=0)
    assert repr(f) == "TTFunction(dim=2, max_rank=2, dtype=torch.float64)"
    assert ttvi.tt.TTFunction is TTFunction


def test_hints_and_history():
    peak = torch.full((1, 4), 0.87, dtype=DOUBLE)
    seen = []
    f = TTFunction.fit(
        lambda x: torch.exp(-300 * (x - 0.87).square().sum(-1)),
        [Legendre(0.0, 1.0, size=60)] * 4,
        init_points=peak,
        max_batch=1000,
        callback=seen.append,
        options=CrossOptions(guard_rounds=1),
        seed=0,
    )
    assert f.info.converged
    assert tuple(seen) == f.info.history
    assert len(f.info.values) == f.info.num_evaluations
