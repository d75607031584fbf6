"""Supports: parsing, the maps between x and y, and their log-determinants, case by case."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.distributions import constraints as C

from ttvi.supports import Circle, Finite, Interval, Line, Support, categorical, circular, interval, positive, real

PI = math.pi

HALF = Line(logarithmic=True)

# name: support, dim, kinds of y
CASES = {
    "all real": (None, 3, (Line(),) * 3),
    "one for all": (positive, 2, (HALF,) * 2),
    "half-lines": ([C.greater_than(2.0), C.less_than(-1.0), C.nonnegative], None, (HALF,) * 3),
    "intervals": ([interval(-1, 4), C.unit_interval, C.half_open_interval(0, 2)], None,
                  (Interval(-1, 4), Interval(0, 1), Interval(0, 2))),
    "bounds per entry": ({"u": (interval(torch.zeros(2), torch.tensor([1.0, 3.0])), 2)}, None, (Interval(0, 1), Interval(0, 3))),
    "circles": ([circular(), circular(0, 360)], None, (Circle(-PI, PI), Circle(0, 360))),
    "finite": ([categorical(3), C.integer_interval(-1, 1), C.boolean], None,
               (Finite((0.0, 1.0, 2.0)), Finite((-1.0, 0.0, 1.0)), Finite((0.0, 1.0)))),
    "vector": ({"theta": (C.real_vector, 3)}, None, (Line(),) * 3),
    "simplex": ([(C.simplex, 4)], None, (Line(),) * 3),
    "correlations": ([(C.corr_cholesky, 3)], None, (Line(),) * 3),
    "mixed": ({"tau": positive, "theta": (real, 2), "w": (C.simplex, 3), "a": circular(), "k": categorical(4), "b": interval(0, 2)},
              None, (HALF,) + (Line(),) * 4 + (Circle(-PI, PI), Finite((0.0, 1.0, 2.0, 3.0)), Interval(0, 2))),
}  # fmt: skip


def made(name: str) -> Support:
    support, dim, _ = CASES[name]
    return Support.parse(support, dim=dim)


def working_points(support: Support, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Random working coordinates, shape (50, m)."""
    generator = torch.Generator().manual_seed(1)
    columns = []
    for kind in support.kinds:
        u = torch.rand(50, generator=generator, dtype=dtype)
        if isinstance(kind, Line):
            columns.append(4 * u - 2)
        elif isinstance(kind, Finite):
            columns.append((u * len(kind.values)).floor())
        else:
            columns.append(kind.lower + u * (kind.upper - kind.lower))
    return torch.stack(columns, 1)


@pytest.mark.parametrize("name", CASES)
def test_kinds(name):
    support = made(name)
    assert support.kinds == CASES[name][2]
    assert support.num_coordinates == len(support.kinds) == len(support.y_names)
    assert support.dim == len(support.names)
    assert support.blocks[-1].x_slice.stop == support.dim
    assert support.blocks[-1].y_slice.stop == support.num_coordinates


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_round_trip_stays_in_the_support(name, dtype):
    support = made(name)
    y = working_points(support, dtype)
    x, log_det = support.to_x(y)
    assert x.dtype == log_det.dtype == dtype
    assert x.shape == (50, support.dim)
    assert log_det.shape == (50,)
    assert bool(support.contains(x).all())
    torch.testing.assert_close(support.to_y(x), y, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-4)
    single, one = support.to_x(y[0])  # no batch dimension
    torch.testing.assert_close(single, x[0])
    torch.testing.assert_close(one, log_det[0])


def free_entries(support: Support) -> list[int]:
    """Entries of x with respect to which a block's density is taken: all but a simplex' last and a matrix' upper ones."""
    entries = []
    for block in support.blocks:
        start, stop = block.x_slice.start, block.x_slice.stop
        if block.constraint is C.simplex:
            entries += range(start, stop - 1)
        elif block.constraint is C.corr_cholesky:
            entries += [start + block.size * i + j for i in range(block.size) for j in range(i)]
        else:
            entries += range(start, stop)
    return entries


@pytest.mark.parametrize("name", CASES)
def test_log_det_is_that_of_autograd(name):
    support = made(name)
    rows = free_entries(support)
    for y in working_points(support)[:5]:
        jacobian = torch.autograd.functional.jacobian(lambda y: support.to_x(y)[0], y)[rows]
        torch.testing.assert_close(support.to_x(y)[1], torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_a_spec_survives_json(name):
    support = made(name)
    again = Support.from_spec(json.loads(json.dumps(support.to_spec())))
    y = working_points(support)
    assert (again.names, again.kinds, again.y_names) == (support.names, support.kinds, support.y_names)
    torch.testing.assert_close(again.to_x(y), support.to_x(y), rtol=0, atol=0)


def test_log_det_of_a_half_line_is_y():
    support = Support.parse([positive, real])
    x, log_det = support.to_x(torch.tensor([[0.7, 3.0]], dtype=torch.float64))
    torch.testing.assert_close(x, torch.tensor([[math.exp(0.7), 3.0]], dtype=torch.float64))
    torch.testing.assert_close(log_det, torch.tensor([0.7], dtype=torch.float64))


def test_an_overflow_on_the_line_does_not_spoil_gradients_of_other_coordinates():
    y = torch.tensor([[1.0, 2000.0]], dtype=torch.float64, requires_grad=True)
    x, log_det = Support.parse([positive, real]).to_x(y)
    (x.sum() + log_det.sum()).backward()
    torch.testing.assert_close(y.grad, torch.tensor([[math.e + 1, 1.0]], dtype=torch.float64))


def test_a_dirichlet_integrates_to_one_over_its_working_coordinates():
    """Lebesgue measure of the first k - 1 entries, as torch's Dirichlet has it."""
    grid = torch.linspace(-12, 12, 241, dtype=torch.float64)
    support = Support.parse((C.simplex, 3))
    x, log_det = support.to_x(torch.cartesian_prod(grid, grid))
    density = torch.distributions.Dirichlet(torch.tensor([2.0, 3.0, 1.5], dtype=torch.float64))
    mass = (density.log_prob(x) + log_det).exp().sum() * 0.1**2
    assert float(mass) == pytest.approx(1.0, abs=1e-4)


def test_circles_wrap_and_keep_the_bits_inside():
    support = Support.parse([circular(0, 1), real])
    inside = torch.tensor([[0.3, 5.0], [0.0, -7.0]], dtype=torch.float64)
    assert torch.equal(support.to_y(inside), inside)
    outside = torch.tensor([[1.0, 5.0], [-0.25, 1.0], [3.5, 1.0], [-1e-300, 1.0]], dtype=torch.float64)
    assert support.to_y(outside)[:, 0].tolist() == [0.0, 0.75, 0.5, 0.0]
    assert torch.equal(support.wrap(outside), support.to_y(outside))


def test_contains():
    support = Support.parse({"tau": positive, "u": interval(0, 1), "k": C.integer_interval(1, 3), "w": (C.simplex, 2)})
    good = [1.0, 0.5, 2.0, 0.4, 0.6]
    rows = torch.tensor([good] * 8, dtype=torch.float64)
    for row, (column, value) in enumerate(
        [(0, 0.0), (0, math.nan), (0, math.inf), (1, 1.5), (2, 4.0), (2, 1.5), (3, 0.9)]
    ):
        rows[row + 1, column] = value
    assert support.contains(rows).tolist() == [True] + [False] * 7
    assert bool(Support.parse([C.nonnegative]).contains(torch.zeros(1, 1)))


def test_names():
    support = Support.parse({"tau": positive, "theta": (real, 2), "L": (C.corr_cholesky, 2)})
    assert support.names == ("tau", "theta[0]", "theta[1]", "L[0,0]", "L[0,1]", "L[1,0]", "L[1,1]")
    assert support.y_names == ("tau", "theta[0]", "theta[1]", "L:0")
    assert Support.parse(dim=2).names == ("x[0]", "x[1]")
    assert Support.parse(dim=2, names=["a", "b"]).names == ("a", "b")
    named = Support.parse([real, (C.simplex, 2)], names=["a", "w"])
    assert named.names == ("a", "w[0]", "w[1]")
    assert [block.name for block in named.blocks] == ["a", "w"]
    assert Support.parse([real, (C.simplex, 2)], names=["a", "b", "c"]).names == ("a", "b", "c")


def test_select():
    support = made("mixed")  # tau theta theta w w w a k b
    part, positions = support.select([2, 3, 4, 5, 8])
    assert part.names == ("theta[1]", "w[0]", "w[1]", "w[2]", "b")
    assert positions == [2, 3, 4, 7]
    y = working_points(support)
    torch.testing.assert_close(part.to_x(y[:, positions])[0], support.to_x(y)[0][:, [2, 3, 4, 5, 8]])
    with pytest.raises(ValueError, match="all entries of `w` together"):
        support.select([0, 3])


def test_a_constraint_that_biject_to_learns_is_accepted():
    class Twice(C.Constraint):
        def check(self, value):
            return value == value

    from torch.distributions import biject_to, transforms

    biject_to.register(Twice, lambda _: transforms.AffineTransform(0.0, 2.0))
    try:
        support = Support.parse([real, Twice()])
        x, log_det = support.to_x(torch.tensor([[1.0, 3.0]]))
        assert x.tolist() == [[1.0, 6.0]]
        assert float(log_det) == pytest.approx(math.log(2))
        with pytest.raises(TypeError, match="that ttvi names"):
            support.to_spec()
    finally:
        biject_to._registry.pop(Twice)


ERRORS = {
    "nothing": (dict(), ValueError, "expected dim= or a support"),
    "dim zero": (dict(dim=0), ValueError, "dim to be a positive integer; got 0"),
    "dim fractional": (dict(dim=2.5), ValueError, "dim to be a positive integer"),
    "dim contradicts": (dict(support=[real], dim=3), ValueError, "dim=3 entries; got 1"),
    "reversed": (dict(support=[real, interval(1, 0)]), ValueError, r"lower < upper for `x\[1\]`; got \(1, 0\). Swap"),
    "not finite": (dict(support=interval(0, math.inf), dim=1), ValueError, "Use ttvi.real"),
    "bound NaN": (dict(support=C.greater_than(math.nan), dim=1), ValueError, "finite bound"),
    "a string": (dict(support="real", dim=1), TypeError, "got str"),
    "not a constraint": (dict(support=[real, 3]), TypeError, r"for `support\[1\]`; got 3"),
    "a class": (dict(support=[C.interval]), TypeError, "Call it"),
    "endless integers": (dict(support=[C.positive_integer]), ValueError, "integer_interval"),
    "unknown": (dict(support=[(C.lower_cholesky, 3)]), ValueError, "supported constraint"),
    "one-hot": (dict(support=[(C.one_hot, 3)]), ValueError, "supported constraint"),
    "no size": (dict(support=[C.simplex]), ValueError, "expected a size"),
    "size zero": (dict(support=[(real, 0)]), ValueError, "positive integer; got 0"),
    "simplex of one": (dict(support=[(C.simplex, 1)]), ValueError, "at least 2"),
    "no square": (dict(support=C.corr_cholesky, dim=5), ValueError, "square"),
    "empty": (dict(support=[]), ValueError, "at least one coordinate"),
    "integers reversed": (dict(support=[C.integer_interval(3, 1)]), ValueError, "lower <= upper"),
    "bounds too many": (dict(support={"u": (interval(torch.zeros(3), 1.0), 2)}), ValueError, "one bound, or 2"),
    "names twice": (dict(dim=2, names=["a", "a"]), ValueError, "distinct names"),
    "too few names": (dict(dim=2, names=["a"]), ValueError, "expected 2 names"),
    "names clash": (dict(support={"a[0]": real, "a": (real, 1)}), ValueError, "distinct names"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    arguments, error, text = ERRORS[name]
    with pytest.raises(error, match=text) as caught:
        Support.parse(**arguments, caller="fit")
    assert str(caught.value).startswith("fit: expected ")


@pytest.mark.parametrize("make", [lambda: categorical(0), lambda: circular(2, 1), lambda: circular(0, math.inf)])
def test_errors_of_the_new_constraints(make):
    with pytest.raises(ValueError, match="expected .*; got"):
        make()


def test_a_thousand_coordinates_are_one_step():
    assert len(Support.parse([positive, real] * 512)._pieces) == 1
