"""What a fit refuses, and in which words; and what is left when the function fails."""

import re

import pytest
import torch

import ttvi
from ttvi.errors import BudgetExhausted, ConvergenceWarning, EvaluationError, MissingExtraError, SupportError
from ttvi.tt import Legendre, TTDensity

BASES = [Legendre(-1.0, 1.0, size=9)] * 3


def gaussian(x):
    return -x.square().sum(1)


def fit(function=gaussian, bases=BASES, **arguments):
    return TTDensity.fit(function, bases, **{"seed": 0, **arguments})


GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"function": 3.0}, TypeError, "expected a callable as first argument; got float."),
        ({"bases": []}, TypeError, "expected a sequence of ttvi.tt bases, one per coordinate; got ()."),
        ({"bases": [1, 2]}, TypeError, "expected a sequence of ttvi.tt bases, one per coordinate; got (1, 2)."),
        ({"tol": 0.0}, ValueError, "expected 0 < tol < 1; got 0.0."),
        ({"tol": -1e-3}, ValueError, "expected 0 < tol < 1; got -0.001."),
        ({"tol": float("nan")}, ValueError, "expected 0 < tol < 1; got nan."),
        ({"tol": 1.0}, ValueError, "expected 0 < tol < 1; got 1.0."),
        ({"max_rank": 0}, ValueError, "expected max_rank to be a positive integer; got 0."),
        ({"max_rank": 2.5}, ValueError, "expected max_rank to be a positive integer; got 2.5."),
        ({"budget": 0}, ValueError, "expected budget to be a positive integer; got 0."),
        ({"max_batch": -1}, ValueError, "expected max_batch to be a positive integer; got -1."),
        ({"generator": GENERATOR}, ValueError, "expected generator= or seed=, not both."),
        ({"dtype": torch.int64}, TypeError, "expected a floating-point dtype; got torch.int64."),
        (
            {"init_points": torch.zeros(2, 4)},
            ValueError,
            "expected init_points of shape (m, 3) with finite entries; got (2, 4).",
        ),
        (
            {"init_points": torch.zeros(3)},
            ValueError,
            "expected init_points of shape (m, 3) with finite entries; got (3,).",
        ),
        ({"init_points": torch.full((1, 3), torch.nan)}, ValueError, "expected init_points of shape (m, 3)"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error) as caught:
        fit(**arguments)
    assert str(caught.value).startswith("fit: " + message)
    assert re.search(r"\. [A-Z].*\.$", str(caught.value))  # the remedy: a second sentence


@pytest.mark.parametrize("bounds", [(1.0, -1.0), (0.0, 0.0), (0.0, float("inf"))])
def test_reversed_interval(bounds):
    with pytest.raises(SupportError, match=r"Legendre: expected .*lower < upper"):
        Legendre(*bounds)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (
            lambda x: gaussian(x)[:, None],
            ValueError,
            r"expected `log_density` to return shape \((\d+),\); got \(\1, 1\)\. Sum over the last dimension\.",
        ),
        (
            lambda x: x,
            ValueError,
            r"expected `log_density` to return shape \((\d+),\); got \(\1, 3\)\. Sum over the last dimension\.",
        ),
        (
            lambda x: gaussian(x).sum(),
            ValueError,
            r"expected `log_density` to return shape \(\d+,\); got \(\)\. Return one value per row",
        ),
        (
            lambda x: gaussian(x).long(),
            TypeError,
            r"expected `log_density` to return floating-point values; got torch\.int64\.",
        ),
        (lambda x: gaussian(x).tolist(), TypeError, r"expected `log_density` to return a torch\.Tensor; got list\."),
        (lambda x: gaussian(x).numpy(), TypeError, r"expected `log_density` to return a torch\.Tensor; got ndarray\."),
        (lambda x: None, TypeError, r"expected `log_density` to return a torch\.Tensor; got NoneType\."),
    ],
    ids=["column", "not-summed", "scalar", "integers", "list", "numpy", "none"],
)
def test_wrong_returns(function, error, message):
    with pytest.raises(error, match="fit: " + message):
        fit(function)


def test_a_wrong_shape_for_batches_of_one_only():
    seen = []

    def squeezes(x):
        seen.append(len(x))
        return gaussian(x).squeeze()

    with pytest.raises(
        ValueError, match=r"fit: expected `log_density` to return shape \(1,\); got \(\)\. Return one value per row"
    ):
        fit(squeezes, max_batch=1)
    assert seen == [1]
    seen.clear()
    with pytest.raises(ValueError, match=r"shape \(1,\); got \(\)"):
        fit(
            squeezes,
            [Legendre(-1.0, 1.0, size=60)] * 3,
            max_batch=999,
            seed=None,
            generator=torch.Generator().manual_seed(0),
        )
    assert seen[0] > seen[-1] == 1


@pytest.mark.parametrize("zero", [-torch.inf, torch.nan], ids=["-inf", "nan"])
def test_zero_everywhere(zero):
    with pytest.raises(
        EvaluationError, match="fit: expected a density that is positive somewhere; got zero at all"
    ) as caught:
        fit(lambda x: torch.full_like(x[:, 0], zero))
    info = caught.value.info
    assert info.status == "interrupted"
    assert info.num_evaluations == len(info.points()) > 0
    assert bool((info.values == -torch.inf).all())
    assert info.num_invalid == (0 if zero == -torch.inf else info.num_evaluations)


class Failing:
    """A Gaussian that raises at a given call, and remembers what it saw before."""

    def __init__(self, at):
        self.at, self.batches = at, []

    def __call__(self, x):
        if len(self.batches) == self.at:
            raise ZeroDivisionError("by zero")
        self.batches.append(x.clone())
        return gaussian(x)


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.6, 0.99])
@pytest.mark.parametrize("size", [9, None])
def test_a_function_that_raises(size, fraction):
    bases = [Legendre(-1.0, 1.0, size=size)] * 3
    counting = Failing(at=-1)
    fit(counting, bases)
    failing = Failing(at=int(fraction * len(counting.batches)))
    with pytest.raises(
        EvaluationError,
        match="fit: expected `log_density` to evaluate a batch of shape .* it raised ZeroDivisionError: by zero",
    ) as caught:
        fit(failing, bases)
    info = caught.value.info
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert info.status == "interrupted"
    seen = torch.cat([torch.zeros(0, 3, dtype=torch.float64), *failing.batches])
    assert info.num_evaluations == len(seen)
    assert torch.equal(info.points(), seen)
    assert torch.equal(info.values, gaussian(seen))


def test_interruption_between_the_nodes_keeps_everything():
    seen = []

    def fails_off_the_grid(x):
        on_grid = (x[:, :1, None] == BASES[0].nodes()).any()
        if not on_grid:
            raise OSError("gone")
        seen.append(x.clone())
        return gaussian(x)

    with pytest.raises(EvaluationError, match="OSError: gone") as caught:
        fit(fails_off_the_grid)
    assert torch.equal(caught.value.info.points(), torch.cat(seen))


@pytest.mark.parametrize("fail_at", [1, 3, 12])
def test_the_account_of_a_function_that_raises_includes_its_slices(fail_at):
    """A surrogate whose basis sizes are to be chosen pays for slices first."""
    paid, calls = 0, 0

    def function(x):
        nonlocal paid, calls
        calls += 1
        if calls == fail_at:
            raise RuntimeError("no more")
        paid += len(x)
        return x.sum(1).sin()

    with pytest.raises(EvaluationError) as caught:
        ttvi.tt.TTFunction.fit(function, [Legendre(-1.0, 1.0)] * 3, seed=0)
    info = caught.value.info
    assert info.status == "interrupted"
    assert info.num_evaluations == paid == len(info.points()) == len(info.values)


def test_the_kinds_of_errors():
    assert issubclass(SupportError, ValueError)
    assert issubclass(EvaluationError, RuntimeError)
    assert issubclass(BudgetExhausted, RuntimeError)
    assert issubclass(ConvergenceWarning, UserWarning)
    assert EvaluationError("text").info is None
    error = MissingExtraError("plot", "matplotlib", "plots")
    assert isinstance(error, ImportError)
    assert str(error) == "plot: expected the package `matplotlib`; it is not installed. Run `pip install ttvi[plots]`."


def test_no_global_state_is_touched_with_a_generator():
    before = (torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled())
    density = TTDensity.fit(gaussian, BASES, generator=torch.Generator().manual_seed(1))
    density.sample((10,), generator=torch.Generator().manual_seed(2))
    density.sample((8,), generator=torch.Generator().manual_seed(2), sobol=True)
    after = (torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_a_seed_touches_no_global_state_either():
    before = torch.get_rng_state()
    fit(seed=7)
    assert torch.equal(before, torch.get_rng_state())
    assert ttvi.__version__
