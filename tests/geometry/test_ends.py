"""Where columns end: against distribution functions; tails that go on, second modes that do not, and what cannot be told."""

from __future__ import annotations

import math

import pytest
import torch

from ttvi.geometry.ends import ends_of_columns

COUNT = 1024
U = (torch.arange(COUNT, dtype=torch.float64) + 0.5) / COUNT
Z = torch.special.ndtri(U)
YES = torch.tensor([True])


def rare(share, width=0.06):
    """A narrow well, and one draw in so many on the other side, a long way off."""
    far = torch.arange(COUNT) % round(1 / share) == 0
    z = torch.special.ndtri(torch.rand(COUNT, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    return torch.where(far, 0.5, -0.5) + width * z


def two_wells(t):
    """Log-density of wells at -0.5 and 0.5, quartic beyond them."""
    return -((0.25 - t.square()) ** 2 / (2 * 0.06**2)).sum(1)


# name: draws, log-density, distribution function of what lies beyond (lower end, upper end)
LIGHT = {
    "normal": (3 + 2 * Z, lambda t: -0.125 * (t - 3).square().sum(1), lambda a, b: (0.5 * (a - 3), 0.5 * (3 - b))),
    "two modes": (
        torch.cat([0.1 * Z[::2] - 1, 0.1 * Z[::2] + 1]), None, lambda a, b: (10 * (a + 1), 10 * (1 - b)),
    ),
    "skewed": (torch.exp(0.2 * Z), None, lambda a, _: (math.log(a) / 0.2 if a > 0 else -math.inf, -math.inf)),
}  # fmt: skip


@pytest.mark.parametrize("name", LIGHT)
def test_next_to_nothing_lies_beyond(name):
    """By the normal distribution function; and not so far that a column is all emptiness."""
    draws, log_density, beyond = LIGHT[name]
    lower, upper = ends_of_columns(log_density, draws[:, None], draws[:0, None], YES)
    assert all(float(torch.special.ndtr(torch.tensor(z))) < 1e-8 for z in beyond(float(lower), float(upper)))
    assert float(draws.min() - lower) < 5 * float(draws.std())
    assert float(upper - draws.max()) < 5 * float(draws.std())


def test_an_end_next_to_two_modes_is_that_of_the_outer_one():
    draws, log_density, _ = LIGHT["two modes"]
    _, upper = ends_of_columns(log_density, draws[:, None], draws[:0, None], YES)
    assert float(upper) == pytest.approx(1.7, abs=0.1)


@pytest.mark.parametrize("share", [0.1, 0.02, 0.008])
def test_a_rare_second_mode_is_no_tail(share):
    """Its draws make the outer quantile large; but beyond its well there is nothing."""
    draws = rare(share)[:, None]
    lower, upper = ends_of_columns(two_wells, draws, draws[:0], YES)
    assert -1.5 < float(lower) < -0.8
    assert float(upper) >= float(draws.max())
    assert math.isfinite(float(upper))


def student(columns, freedom):
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(COUNT, columns, generator=generator, dtype=torch.float64)
    chi = torch.randn(COUNT, columns, freedom, generator=generator, dtype=torch.float64).square().mean(2)
    return normal / chi.sqrt()


TAILS = {
    "Student, 3": (student(64, 3), lambda t: -2 * torch.log1p(t.square() / 3).sum(1)),
    "Cauchy": (student(64, 1), lambda t: -torch.log1p(t.square()).sum(1)),
    "Laplace": (
        (torch.where(U < 0.5, (2 * U).log(), -(2 - 2 * U).log()))[:, None].expand(-1, 64), lambda t: -t.abs().sum(1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAILS)
def test_tails_go_on(name):
    """In all columns: by chance a few of them look normal."""
    draws, log_density = TAILS[name]
    free = torch.arange(64) < 60
    lower, upper = ends_of_columns(log_density, draws, draws[:0], free)
    assert not bool(torch.isfinite(upper - lower).any())


def test_tails_of_a_scale_mixture_go_on():
    """Given its scale every coordinate of a funnel is normal: only the farthest draws show what the scale can be."""
    generator = torch.Generator().manual_seed(2)
    v = 3 * torch.randn(COUNT, 1, generator=generator, dtype=torch.float64)
    x = torch.exp(0.5 * v) * torch.randn(COUNT, 63, generator=generator, dtype=torch.float64)

    def log_density(t):
        v, x = t[:, :1], t[:, 1:]
        return (-v.square() / 18 - 0.5 * 63 * v)[:, 0] - 0.5 * (torch.exp(-v) * x.square()).sum(1)

    draws = torch.cat([v, x], 1)
    lower, upper = ends_of_columns(log_density, draws, draws[:0], torch.ones(64, dtype=torch.bool))
    assert not bool(torch.isfinite(upper - lower).any())


def test_one_tail_among_many_columns_leaves_the_others_their_ends():
    draws = torch.cat([TAILS["Student, 3"][0][:, :1], Z[:, None].expand(-1, 40)], 1)
    lower, upper = ends_of_columns(
        lambda t: TAILS["Student, 3"][1](t[:, :1]) - 0.5 * t[:, 1:].square().sum(1),
        draws,
        draws[:0],
        torch.ones(41) > 0,
    )
    assert torch.isfinite(upper - lower).tolist() == [False] + [True] * 40


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_where_nobody_can_tell_a_tail_goes_on(value):
    draws = rare(0.05)[:, None]
    lower, upper = ends_of_columns(lambda t: torch.full((len(t),), value, dtype=t.dtype), draws, draws[:0], YES)
    assert not bool(torch.isfinite(upper - lower).any())


def test_no_column_ends_before_what_is_known():
    reach = torch.tensor([[40.0], [-1.0]], dtype=torch.float64)
    lower, upper = ends_of_columns(lambda t: -0.5 * t.square().sum(1), Z[:, None], reach, YES)
    assert float(upper) == 40
    assert float(lower) == pytest.approx(-7, abs=0.3)
