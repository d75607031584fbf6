"""Stretches: one table of columns × (closed form, round trip, slope by autograd, ends); tails read from quantiles."""

from __future__ import annotations

import math

import pytest
import torch

from ttvi.geometry.interval import SHARPNESS, from_line, to_line
from ttvi.geometry.stretch import WIDTH, Stretch, tail_exponent


def bent(u):
    """The map of the unit interval to the line, straight in the middle."""
    return u + (math.log(-math.expm1(-SHARPNESS * u)) - math.log(-math.expm1(-SHARPNESS * (1 - u)))) / SHARPNESS


# name: exponent, native, fixed, end, the map in plain Python
COLUMNS = {
    "algebraic": (0.0, False, False, 0.0, lambda w: WIDTH * w / math.sqrt(1 - w * w)),
    "sinh 0.3": (0.3, False, False, 0.0, lambda w: math.sinh(0.3 * WIDTH * w / math.sqrt(1 - w * w)) / 0.3),
    "sinh 2": (2.0, False, False, 0.0, lambda w: math.sinh(2.0 * WIDTH * w / math.sqrt(1 - w * w)) / 2.0),
    "native": (0.0, True, False, 0.0, lambda w: bent(0.5 * (1 + w))),
    "fixed": (0.0, False, True, 0.0, lambda w: w),
    "ends": (0.0, False, False, 7.0, lambda w: 7.0 * w),
}
ALL = list(COLUMNS)


def made(*names):
    exponents, native, fixed, ends, _ = zip(*(COLUMNS[name] for name in names))
    ends = torch.tensor(ends, dtype=torch.float64) if any(ends) else None
    return Stretch(torch.tensor(exponents, dtype=torch.float64), torch.tensor(native), torch.tensor(fixed), ends)


@pytest.mark.parametrize("name", COLUMNS)
def test_closed_form(name):
    for w in (-0.9, -0.2, 0.0, 0.5, 0.99):
        t, _ = made(name).forward(torch.tensor([w], dtype=torch.float64))
        assert float(t) == pytest.approx(COLUMNS[name][-1](w), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize(("dtype", "top", "tolerance"), [(torch.float64, 0.999, 1e-12), (torch.float32, 0.9, 1e-5)])
def test_round_trip_of_all_columns_at_once(dtype, top, tolerance):
    stretch = made(*ALL)
    w = torch.linspace(-top, top, 101, dtype=dtype)[:, None].expand(-1, len(ALL)).reshape(101, 1, -1)
    t, forth = stretch.forward(w)
    back, slope = stretch.inverse(t)
    assert t.dtype == back.dtype == slope.dtype == dtype
    assert t.shape == slope.shape == w.shape
    torch.testing.assert_close(back, w, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(slope, -forth, rtol=100 * tolerance, atol=100 * tolerance)


@pytest.mark.parametrize("name", COLUMNS)
def test_slopes_by_autograd(name):
    stretch = made(name)
    w = torch.linspace(-0.99, 0.99, 25, dtype=torch.float64)[:, None].requires_grad_(True)
    t, slope = stretch.forward(w)
    (grad,) = torch.autograd.grad(t.sum(), w)
    torch.testing.assert_close(grad.log(), slope, rtol=1e-10, atol=1e-10)
    t = t.detach().requires_grad_(True)
    back, slope = stretch.inverse(t)
    (grad,) = torch.autograd.grad(back.sum(), t)
    torch.testing.assert_close(grad.log(), slope, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradcheck(lambda x: stretch.forward(x)[1], (w.detach()[3:6].requires_grad_(True),))
    assert torch.autograd.gradcheck(lambda x: stretch.inverse(x)[1], (t.detach()[3:6].requires_grad_(True),))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_ends_stay_finite(dtype):
    """w at ±1, and the numbers next to it: values, slopes and gradients are numbers."""
    stretch = made("algebraic", "native", "fixed", "ends")
    edge = 1 - torch.finfo(dtype).eps
    w = torch.tensor([-1.0, -edge, edge, 1.0], dtype=dtype)[:, None].repeat(1, 4).requires_grad_(True)
    t, slope = stretch.forward(w)
    assert bool(torch.isfinite(t).all())
    assert bool(torch.isfinite(slope).all())
    (grad,) = torch.autograd.grad(t.sum() + slope.sum(), w)
    assert bool(torch.isfinite(grad).all())


def test_an_overflowing_sinh_leaves_other_columns_alone():
    """sinh overflows at |v| = 710; an algebraic column beside it, or at the same v, has its gradient."""
    stretch = made("algebraic", "sinh 2")
    w = torch.tensor([[1 - 1e-9, 0.5]], dtype=torch.float64, requires_grad=True)
    t, slope = stretch.forward(w)
    (grad,) = torch.autograd.grad(t.sum(), w)
    torch.testing.assert_close(grad.log(), slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("dtype", "far"), [(torch.float64, 1e300), (torch.float32, 1e30)])
def test_far_out_nothing_overflows(dtype, far):
    """The algebraic slope is 9 |t|^-3 there, also where t² is no number any more; the sinh one 9 |v|^-3 / |t τ|."""
    t = torch.tensor([[far], [-far]], dtype=dtype).repeat(1, 2)
    w, slope = made("algebraic", "sinh 2").inverse(t)
    assert bool((w.abs() <= 1).all())
    v = math.log(4.0 * far) / 2.0
    wanted = [
        2 * math.log(WIDTH) - 3 * math.log(far),
        2 * math.log(WIDTH) - 3 * math.log(math.hypot(v, WIDTH)) - math.log(2 * far),
    ]
    torch.testing.assert_close(slope, torch.tensor([wanted, wanted], dtype=dtype), rtol=1e-5, atol=1e-4)


def test_within_keeps_columns_that_are_not_lines():
    """Beyond the end of a column there is no density: its points must not be moved inside."""
    w = made("algebraic", "fixed", "ends").within(torch.tensor([[1.0, 5.0, 1.5]]))
    assert float(w[0, 0]) < 1
    assert w[0, 1:].tolist() == [5.0, 1.5]


def test_columns_are_the_same_maps():
    w = torch.full((1, len(ALL)), 0.4, dtype=torch.float64)
    chosen = torch.tensor([5, 1])
    assert torch.equal(made(*ALL).columns(chosen).forward(w[:, :2])[0], made(*ALL).forward(w)[0][:, chosen])


@pytest.mark.parametrize("tau", [0.0, 0.8, 2.0])
def test_tails_from_quantiles(tau):
    """Of loc + scale sinh(τ z)/τ with normal z, at exact quantiles."""
    z = torch.special.ndtri((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)
    x = 5 - 0.1 * (torch.sinh(tau * z) / tau if tau else z)
    loc, scale, found = tail_exponent(x[:, None])
    assert float(loc) == pytest.approx(5.0, abs=1e-3)
    assert float(found) == pytest.approx(tau, abs=0.02)
    assert float(scale) == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_two_modes_have_their_middle_between_them(share):
    """And not in one of them, wherever the median is."""

    def normal(count):
        return 0.1 * torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)

    left = round(10_000 * share)
    loc, _, tau = tail_exponent(torch.cat([normal(left) - 1, normal(10_000 - left) + 1])[:, None])
    assert abs(float(loc)) < 0.05
    assert float(tau) == 0


def test_tails_of_a_constant_column_are_harmless():
    loc, scale, tau = tail_exponent(torch.full((50, 1), 3.0, dtype=torch.float64))
    assert float(loc) == 3
    assert float(scale) > 0
    assert float(tau) == 0


# -- the interval and the line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_interval_there_and_back(dtype, tolerance):
    u = torch.tensor([1e-30, 1e-6, 0.01, 0.3, 0.5, 0.9, 0.999], dtype=dtype)
    t = to_line(u)
    back, slope = from_line(t)
    torch.testing.assert_close(back, u, rtol=20 * tolerance, atol=0)
    leaf = t.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(from_line(leaf)[0].sum(), leaf)
    torch.testing.assert_close(grad.log()[1:], slope[1:], rtol=1e3 * tolerance, atol=1e3 * tolerance)


def test_the_interval_is_straight_in_the_middle():
    u = torch.linspace(0.2, 0.8, 7, dtype=torch.float64)
    torch.testing.assert_close(to_line(u), u, rtol=0, atol=1e-4)


def test_ends_of_the_interval():
    ends = to_line(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert bool(torch.isfinite(ends).all())
    assert from_line(ends)[0].tolist() == pytest.approx([0.0, 1.0], abs=1e-15)
    far, slope = from_line(torch.tensor([-1e6, 1e6], dtype=torch.float64))
    assert far.tolist() == pytest.approx([0.0, 1.0], abs=1e-9)
    assert slope.tolist() == pytest.approx([-SHARPNESS * 1e6, -SHARPNESS * 1e6], rel=1e-5)
