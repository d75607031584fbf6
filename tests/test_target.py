"""Targets and their accounts: ways of calling, counting, cache, budget, log, gradients, failures, priors."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import constraints as C

from ttvi.errors import BudgetExhausted, EvaluationError
from ttvi.evaluation_log import EvaluationLog
from ttvi.supports import Circle, Finite, Interval, Line, circular, interval, positive, real
from ttvi.target import Target

ROOT = Path(__file__).resolve().parent.parent


def gaussian(x: torch.Tensor) -> torch.Tensor:
    return -0.5 * (x**2).sum(-1)


def grid(count: int, dim: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Counting:
    """A function that counts the points it is given."""

    def __init__(self, function=gaussian):
        self.function, self.points, self.calls = function, 0, []

    def __call__(self, x):
        self.points += len(x)
        self.calls.append(len(x))
        return self.function(x)


# how a function may be written (d = 3, the value is always that of `gaussian`), and the way of calling that is found
WRITTEN = {
    "batch": (gaussian, "native"),
    "batch of NumPy": (lambda x: -0.5 * np.square(x.astype(float)).sum(-1), "numpy"),
    "batch, NumPy inside": (lambda x: -0.5 * (x.numpy() ** 2).sum(-1), "native"),
    "row": (lambda x: -0.5 * (x[0] ** 2 + x[1] ** 2 + x[2] ** 2), "vmap"),
    "row that sums over everything": (lambda x: -0.5 * (x**2).sum(), "vmap"),
    "row with a dot product": (lambda x: -0.5 * torch.dot(x, x), "vmap"),
    "row with a branch": (lambda x: -0.5 * (x @ x) if float(x[0]) < 1e9 else x.sum(), "loop"),
    "row to a float": (lambda x: -0.5 * sum(float(v) ** 2 for v in x), "loop"),
    "row of NumPy": (lambda x: -0.5 * float(x.astype(float) @ x) if x.ndim == 1 else 1 / 0, "numpy-loop"),
    "batch, squeezed": (lambda x: (-0.5 * (x**2).sum(-1, keepdim=True)).squeeze(), "native"),
    "batch that mixes points": (lambda x: -0.5 * (x**2).sum(-1) + 0 * x.sum() if x.dim() == 1 else gaussian(x - x.mean(0)), "vmap"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_the_way_of_calling_is_found(name):
    function, mode = WRITTEN[name]
    target = Target(function, dim=3)
    x = grid(50)
    torch.testing.assert_close(target.session()(x), gaussian(x))
    assert target._caller.mode == mode
    torch.testing.assert_close(target.session()(x[:1]), gaussian(x[:1]))


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_a_row_function_is_not_taken_for_a_batch_function_where_the_shapes_agree(dim):
    def row(x):
        return -(x[0] ** 2) - (x**2).sum(0)  # on a square batch: the right shape, the wrong values

    x = grid(7, dim)
    expected = -(x[:, 0] ** 2) - (x**2).sum(1)
    torch.testing.assert_close(Target(row, dim=dim).session()(x), expected)


@pytest.mark.parametrize("batching", ["native", "vmap", "loop"])
def test_a_given_way_of_calling_is_used(batching):
    target = Target(gaussian, dim=3, batching=batching)
    torch.testing.assert_close(target.session()(grid(5)), gaussian(grid(5)))
    assert target._caller.mode == batching


def test_one_point_first_then_many():
    session = Target(lambda x: -(x**2).sum(), dim=2).session()
    assert session(torch.ones(1, 2)).tolist() == [-2.0]
    assert session(torch.full((3, 2), 2.0)).tolist() == [-8.0] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_function_is_given_the_dtype_asked_for(dtype):
    seen = set()

    def function(x):
        seen.add(x.dtype)
        return gaussian(x)

    values = Target(function, dim=3, dtype=dtype).session()(grid(10))
    assert seen == {dtype}
    assert values.dtype == torch.float64


def test_everything_stays_on_the_device(device):
    target = Target(gaussian, support=[positive, real, circular()], device=device)
    session = target.session()
    x = grid(100).abs().to(device)
    values, gradients = session.value_and_gradient(torch.cat([x, x]))
    assert {t.device.type for t in (values, gradients, *session.points_and_values())} == {device.type}
    torch.testing.assert_close(session(x), gaussian(x))
    torch.testing.assert_close(gradients[100:], -x)
    assert session.num_evaluations == 100


RETURNED = {
    "one column": (lambda x: gaussian(x).unsqueeze(-1), ValueError, r"got \(2, 1\). Sum over the last dimension"),
    "no sum": (lambda x: -(x**2), ValueError, r"expected `log_density` to return shape \(2,\); got \(2, 3\). Sum over"),
    "too short": (lambda x: gaussian(x)[:-1] if x.dim() > 1 else x[:2], ValueError, "to return shape"),
    "integers": (lambda x: gaussian(x).long(), TypeError, "floating-point values; got torch.int64"),
    "complex": (lambda x: gaussian(x).to(torch.complex128), TypeError, "floating-point values; got torch.complex128"),
    "nothing": (lambda x: None, TypeError, "got NoneType"),
    "a list": (lambda x: [1.0, 2.0], TypeError, "got list"),
}  # fmt: skip


@pytest.mark.parametrize("name", RETURNED)
def test_what_is_returned_is_checked(name):
    function, error, text = RETURNED[name]
    with pytest.raises(error, match=text):
        Target(function, dim=3).session()(grid(20))


def test_a_wrong_shape_in_mid_fit_is_an_error():
    session = Target(lambda x: gaussian(x) if len(x) < 10 else x, dim=3).session()
    session(grid(5))
    with pytest.raises(ValueError, match=r"return shape \(20,\); got \(20, 3\)"):
        session(grid(20))


def test_a_function_that_always_raises_says_what_every_attempt_said():
    def function(x):
        raise KeyError(f"no model for {x.ndim}")

    with pytest.raises(EvaluationError, match=r"native: KeyError: 'no model for 2'.*loop: KeyError: 'no model for 1'"):
        Target(function, dim=3).session()(grid(20))
    target = Target(function, dim=3)
    target._caller.mode = "native"
    with pytest.raises(EvaluationError, match="raised at all of the first 20 points"):
        target.session()(grid(20))


def test_points_in_wrong_shape():
    session = Target(gaussian, dim=3).session()
    for x in (torch.zeros(3), torch.zeros(2, 4), [[0.0, 0.0, 0.0]]):
        with pytest.raises(ValueError, match=r"expected points of shape \(batch, 3\)"):
            session(x)
    assert session(torch.zeros(0, 3)).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (dict(dim=2, batching="rows"), ValueError, "batching in"),
        (dict(dim=2, dtype=torch.int64), TypeError, "floating-point dtype"),
        (dict(dim=2, gradient="yes"), TypeError, "gradient"),
        (dict(dim=2, max_batch=0), ValueError, "max_batch"),
        (dict(dim=2, executor=3), TypeError, "executor"),
        (dict(dim=2, init_points=torch.zeros(2)), ValueError, "init_points of shape"),
        (dict(support=[positive], init_points=[[-1.0]]), ValueError, r"init_points in the support; got \[-1.0\]"),
        (dict(), ValueError, "expected dim="),
    ],
)
def test_arguments_are_checked(arguments, error, text):
    with pytest.raises(error, match=text) as caught:
        Target(gaussian, **arguments, caller="fit")
    assert str(caught.value).startswith("fit: expected ")
    with pytest.raises(TypeError, match="callable"):
        Target(3.0, dim=2)
    with pytest.raises(ValueError, match="budget"):
        Target(gaussian, dim=2).session(budget=0)


def test_angles_of_initial_points_are_wrapped():
    target = Target(gaussian, support=[circular(), real], init_points=[[2 * math.pi + 1, 50.0]])
    torch.testing.assert_close(target.init_points, torch.tensor([[1.0, 50.0]], dtype=torch.float64))


def test_no_point_is_paid_for_twice():
    function = Counting()
    session = Target(function, dim=3, batching="native").session()
    x = grid(100)
    mixed = torch.cat([x[:60], x[:60].flip(0), x[40:]])
    torch.testing.assert_close(session(mixed), gaussian(mixed))
    assert session.num_evaluations == session.num_paid == 100
    session(mixed[::3])
    session(torch.cat([x[:5], grid(7, seed=1)]))
    assert session.num_evaluations == 107
    assert function.points == 107 + session.num_probes
    known, values = session.points_and_values()
    assert torch.equal(known, torch.cat([x, grid(7, seed=1)]))  # in the order of asking
    torch.testing.assert_close(values, gaussian(known))


def test_zeros_of_both_signs_are_one_point_and_neighbours_are_two():
    session = Target(gaussian, dim=1).session()
    session(torch.tensor([[0.0], [-0.0], [1.0], [math.nextafter(1.0, 2.0)]], dtype=torch.float64))
    assert session.num_evaluations == 3


def test_keys_of_structured_points_differ():
    """Integers and powers of two have few bits set in a float64."""
    axis = torch.arange(64, dtype=torch.float64)
    for scale in (1.0, 2.0**-30, 2.0**40):
        session = Target(lambda x: x[:, 0] * 1e6 + x[:, 1] * 1e3 + x[:, 2], dim=3, batching="native").session()
        points = torch.cartesian_prod(axis, axis[:32], axis[:32]) * scale
        values = session(points)
        assert session.num_evaluations == len(points)
        torch.testing.assert_close(session(points.flip(0)).flip(0), values, rtol=0, atol=0)


def test_without_a_cache_every_point_counts():
    session = Target(gaussian, dim=3).session(cache=False)
    x = grid(10)
    session(x)
    torch.testing.assert_close(session(x), gaussian(x))
    assert session.num_evaluations == session.num_paid == 20
    assert session.points_and_values()[0].shape == (0, 3)


def test_the_function_may_work_in_place():
    def function(x):
        return gaussian(x.mul_(2))

    session = Target(function, dim=3).session()
    x = grid(10)
    kept = x.clone()
    torch.testing.assert_close(session(x), gaussian(2 * x))
    assert torch.equal(x, kept)
    assert torch.equal(session.points_and_values()[0], kept)


def test_the_budget_is_kept_before_anything_is_evaluated():
    function = Counting()
    session = Target(function, dim=3, batching="vmap").session(budget=50)
    session(grid(40))
    before = function.points
    with pytest.raises(BudgetExhausted, match="20 evaluations wanted"):
        session(grid(20, seed=1))
    assert function.points == before
    session(grid(40))  # known points are free
    left = int(session.remaining)
    assert 0 < left <= 10
    session(grid(left, seed=2))
    assert session.remaining == 0


def test_max_batch_splits():
    function = Counting()
    Target(function, dim=3, batching="native", max_batch=32).session()(grid(100))
    assert function.calls[1:] == [32, 32, 32, 4]


def test_nan_and_inf_are_counted_and_have_zero_density():
    def function(x):
        value = gaussian(x)
        value = torch.where(x[:, 0] > 1, torch.nan, value)
        value = torch.where(x[:, 0] < -1, torch.inf, value)
        return torch.where(x[:, 1] > 1.5, -torch.inf, value)

    x = grid(500)
    session = Target(function, dim=3).session()
    values = session(torch.cat([x, x]))[:500]
    assert session.num_nan == int(torch.isnan(function(x)).sum()) > 0
    assert session.num_posinf == int((function(x) == torch.inf).sum()) > 0
    assert session.num_failed == 0
    assert session.num_invalid == session.num_nan + session.num_posinf
    assert bool((values[~torch.isfinite(function(x))] == -torch.inf).all())
    assert not bool(torch.isnan(session.points_and_values()[1]).any())


@pytest.mark.parametrize("batching", ["native", "vmap", "loop"])
def test_points_at_which_the_function_raises_have_zero_density(batching):
    def function(x):
        if batching != "vmap" and bool((x[..., 0] > 2).any()):
            raise FloatingPointError("the solver diverged")
        return gaussian(x)

    x = grid(400)
    session = Target(function, dim=3, batching=batching).session()
    values = session(x)
    bad = (x[:, 0] > 2) if batching != "vmap" else torch.zeros(400, dtype=torch.bool)
    assert session.num_failed == int(bad.sum())
    torch.testing.assert_close(values, torch.where(bad, -torch.inf, gaussian(x)))
    if batching != "vmap":
        assert "the solver diverged" in session.last_error
    assert session.num_evaluations == session.num_paid == 400


def test_first_points_that_raise_do_not_decide_how_to_call():
    def function(x):
        if bool((x[..., 0] > 2).any()):
            raise FloatingPointError("the solver diverged")
        return gaussian(x)

    x = grid(100).clamp(max=1.9)
    x[:2, 0] = 3.0
    session = Target(function, dim=3).session()
    assert session(x)[:2].tolist() == [-math.inf, -math.inf]
    assert session.num_failed == 2


def test_stages_book_evaluations_and_seconds_once():
    session = Target(gaussian, dim=3).session()
    with session.stage("explore"):
        session(grid(10))
        with session.stage("certify"):
            session(grid(20, seed=1))
            time.sleep(0.02)
        session(grid(5, seed=2))
    session(grid(3, seed=3))
    with session.stage("explore"):
        session(grid(1, seed=4))
    stages = session.stages
    assert {name: count for name, (count, _) in stages.items()} == {"explore": 16, "certify": 20}
    assert stages["certify"][1] >= 0.02


def test_progress_is_told():
    counts = []
    Target(gaussian, dim=3, max_batch=10).session(progress=lambda account: counts.append(account.num_paid))(grid(30))
    assert counts == [10, 20, 30]


# Gradients


def quartic(x: torch.Tensor) -> torch.Tensor:
    return -(x**4).sum(-1)


@pytest.mark.parametrize("function", [quartic, lambda row: -(row[0] ** 4 + row[1] ** 4 + row[2] ** 4)])
def test_gradients_by_autograd(function):
    session = Target(function, dim=3).session()
    x = grid(20)
    assert session.has_gradient
    values, gradients = session.value_and_gradient(torch.cat([x, x[:4]]))
    torch.testing.assert_close(values[:20], quartic(x))
    torch.testing.assert_close(gradients, -4 * torch.cat([x, x[:4]]) ** 3)
    assert session.num_evaluations == session.num_paid == 20
    torch.testing.assert_close(session(x), quartic(x))  # a value comes with its gradient
    assert session.num_evaluations == 20
    y = grid(5, seed=1)
    session(y)
    session.value_and_gradient(y)  # but not the other way round
    assert session.num_evaluations == session.num_paid == 30
    assert len(session.points_and_values()[0]) == 25


@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_gradients_row_by_row(batching):
    session = Target(quartic, dim=3, batching=batching).session()
    torch.testing.assert_close(session.value_and_gradient(grid(6))[1], -4 * grid(6) ** 3)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: quartic(x).detach(),
        lambda x: -(x.numpy() ** 4).sum(-1),
        lambda x: -(np.asarray(x, dtype=float) ** 4).sum(-1),
        lambda x: -sum(float(v) ** 4 for v in x),
    ],
)
def test_no_gradient_is_found_out_quietly(function):
    session = Target(function, dim=3).session()
    assert not session.has_gradient
    torch.testing.assert_close(session(grid(20)), quartic(grid(20)))


def test_gradients_are_found_out_before_any_evaluation():
    assert Target(lambda x: x.log().sum(-1), dim=3, support=positive).session().has_gradient
    session = Target(lambda x: 1 / 0, dim=3).session()
    assert not session.has_gradient
    with pytest.raises(EvaluationError, match="ZeroDivisionError"):
        session(grid(3))


def test_gradients_of_the_user():
    def gradient(x):
        return -4 * x.numpy() ** 3

    session = Target(lambda x: quartic(x).detach(), dim=3, gradient=gradient).session()
    assert session.has_gradient
    torch.testing.assert_close(session.value_and_gradient(grid(6))[1], -4 * grid(6) ** 3)
    assert not Target(quartic, dim=3, gradient=False).session().has_gradient
    with pytest.raises(ValueError, match=r"`gradient` to return shape \(6, 3\); got \(6,\)"):
        Target(quartic, dim=3, gradient=lambda x: x[:, 0]).session().value_and_gradient(grid(6))


def test_gradients_that_are_not_finite_are_zero_and_counted():
    def function(x):  # the square root has an infinite slope at zero
        return x[:, 0].sqrt()

    values, gradients = (session := Target(function, dim=1).session()).value_and_gradient(
        torch.tensor([[4.0], [0.0], [-1.0]], dtype=torch.float64)
    )
    assert values.tolist() == [2.0, 0.0, -math.inf]
    assert gradients.tolist() == [[0.25], [0.0], [0.0]]
    assert (session.num_bad_gradients, session.num_nan) == (1, 1)


# Checkpoints


def adaptive_fit(session, rounds: int = 12) -> torch.Tensor:
    """A stand-in for a fit: where it looks next depends on every value that it has seen."""
    x = grid(40)
    for k in range(rounds):
        values = session(x) if k % 3 else session.value_and_gradient(x)[0]
        best = session.points_and_values()[0][session.points_and_values()[1].argmax()]
        x = torch.cat([x[:3], best + 0.9**k * grid(37, seed=k) + 1e-3 * values.sum()])
    return torch.cat([t.reshape(-1) for t in session.points_and_values()])


def test_a_log_resumes(tmp_path):
    reference = Target(quartic, dim=3, names=["a", "b", "c"]).session()
    expected = adaptive_fit(reference)
    first = Target(quartic, dim=3).session(checkpoint=tmp_path / "run")
    adaptive_fit(first, 5)
    first.close()
    again = Target(quartic, dim=3).session(checkpoint=tmp_path / "run")
    assert torch.equal(adaptive_fit(again), expected)
    assert again.num_evaluations == reference.num_evaluations
    assert first.num_paid + again.num_paid == reference.num_paid
    assert again.num_probes == reference.num_probes


def test_budget_decisions_of_a_resumed_fit_are_the_same(tmp_path):
    def run(**options):
        session = Target(quartic, dim=3).session(budget=200, **options)
        trace = []
        for k in range(10):
            trace.append(session.remaining)
            if k == 2:
                trace.append(session.has_gradient)
            try:
                session(grid(40, seed=k))
            except BudgetExhausted:
                return trace

    expected = run()
    assert run(checkpoint=tmp_path) == expected
    assert run(checkpoint=tmp_path) == expected


def test_counts_of_a_resumed_fit_are_the_same(tmp_path):
    def function(x):
        if bool((x[:, 0] > 2).any()):
            raise FloatingPointError
        return torch.where(x[:, 1] > 2, torch.nan, torch.where(x[:, 2] > 2, torch.inf, gaussian(x)))

    def run():
        session = Target(function, dim=3).session(checkpoint=tmp_path)
        session(grid(500))
        return session.num_nan, session.num_posinf, session.num_failed

    counts = run()
    assert min(counts) > 0
    assert run() == counts


def test_a_torn_record_is_dropped(tmp_path):
    session = Target(gaussian, dim=3).session(checkpoint=tmp_path)
    session(grid(10))
    session(grid(10, seed=1))
    session.close()
    path = tmp_path / EvaluationLog.NAME
    data = path.read_bytes()
    for cut in (1, 17, 200):
        path.write_bytes(data[:-cut])
        session = Target(gaussian, dim=3).session(checkpoint=tmp_path)
        torch.testing.assert_close(
            session(torch.cat([grid(10), grid(10, seed=1)])), gaussian(torch.cat([grid(10), grid(10, seed=1)]))
        )
        assert session.num_paid == 10
        session.close()
        assert path.stat().st_size == len(data)  # written again, whole
    path.write_bytes(data + b"EVAL and no more" * 100)
    Target(gaussian, dim=3).session(checkpoint=tmp_path).close()
    assert path.read_bytes() == data
    path.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])  # whole in length, not in content
    session = Target(gaussian, dim=3).session(checkpoint=tmp_path)
    session(torch.cat([grid(10), grid(10, seed=1)]))
    assert session.num_paid == 10
    session.close()
    path.write_bytes(data[:20])  # killed while the header was being written
    assert Target(gaussian, dim=3).session(checkpoint=tmp_path)(grid(10)).shape == (10,)


def test_a_log_of_another_target_is_refused(tmp_path):
    Target(gaussian, dim=3).session(checkpoint=tmp_path)(grid(10))
    with pytest.raises(ValueError, match="log of dimension 2 .* one of dimension 3"):
        Target(gaussian, dim=2).session(checkpoint=tmp_path)
    with pytest.raises(ValueError, match="another support"):
        Target(gaussian, support=positive, dim=3).session(checkpoint=tmp_path)
    (tmp_path / EvaluationLog.NAME).write_text("something else, at length: " + "x" * 200)
    with pytest.raises(ValueError, match="another file"):
        Target(gaussian, dim=3).session(checkpoint=tmp_path)
    with pytest.raises(ValueError, match="directory"):
        Target(gaussian, dim=3).session(checkpoint=tmp_path / EvaluationLog.NAME)


@pytest.mark.parametrize("batching", ["loop", "native"])
def test_an_interruption_passes_through_and_keeps_what_was_paid_for(tmp_path, batching):
    seen = []

    def function(x):
        if len(seen) == 8:
            raise KeyboardInterrupt
        seen.append(len(x))
        return gaussian(x)

    target = Target(function, dim=3, batching=batching, max_batch=10)
    target._caller.mode = batching
    with pytest.raises(KeyboardInterrupt):
        target.session(checkpoint=tmp_path)(grid(100))
    again = Target(gaussian, dim=3, batching=batching, max_batch=10).session(checkpoint=tmp_path)
    torch.testing.assert_close(again(grid(100)), gaussian(grid(100)))
    assert again.num_paid == (92 if batching == "loop" else 20)


KILLED = """
import sys, time, torch
sys.path[:0] = [{tests!r}]
from test_target import adaptive_fit, quartic
from ttvi.target import Target
def slow(x):
    time.sleep(0.001 * len(x))
    return quartic(x)
adaptive_fit(Target(slow, dim=3).session(checkpoint={folder!r}))
"""


def test_a_killed_process_continues_without_paying_twice(tmp_path):
    program = KILLED.format(tests=str(ROOT / "tests"), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    path = tmp_path / EvaluationLog.NAME
    while process.poll() is None and not (path.exists() and path.stat().st_size > 6000):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    log = EvaluationLog(tmp_path, dim=3, fingerprint=Target(quartic, dim=3)._fingerprint())
    paid_before = sum(len(x) for x, _ in log.records)
    log.close()
    reference = Target(quartic, dim=3).session()
    expected = adaptive_fit(reference)
    again = Target(quartic, dim=3).session(checkpoint=tmp_path)
    assert torch.equal(adaptive_fit(again), expected)
    assert 0 < paid_before < reference.num_paid
    assert paid_before + again.num_paid == reference.num_paid


# Priors


def normal_and_friends():
    torch_d, scipy_d = torch.distributions, scipy.stats
    return {
        "mu": torch_d.Normal(1.0, 2.0),
        "tau": torch_d.HalfCauchy(5.0),
        "theta": torch_d.Normal(torch.zeros(3, dtype=torch.float64), 2.0),
        "u": torch_d.Uniform(-1.0, 3.0),
        "w": torch_d.Dirichlet(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)),
        "v": torch_d.MultivariateNormal(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)),
        "angle": torch_d.VonMises(0.5, 3.0),
        "flag": torch_d.Bernoulli(0.3),
        "rate": scipy_d.gamma(2.0, scale=0.5),
        "share": scipy_d.beta(2.0, 3.0),
        "count": scipy_d.poisson(3.0),
        "year": scipy_d.randint(1850, 1963),
    }


def test_supports_follow_from_the_prior():
    target = Target.from_prior(normal_and_friends(), gaussian)
    kinds = dict(zip(target.support.y_names, target.support.kinds))
    assert target.dim == 17
    assert target.names[:5] == ("mu", "tau", "theta[0]", "theta[1]", "theta[2]")
    assert all(kinds[name] == Line() for name in ("mu", "theta[2]", "w:0", "w:1", "v[1]"))
    assert all(kinds[name] == Line(logarithmic=True) for name in ("tau", "rate"))
    assert kinds["u"] == Interval(-1.0, 3.0)
    assert kinds["share"] == Interval(0.0, 1.0)
    assert kinds["angle"] == Circle(-math.pi, math.pi)
    assert kinds["flag"] == Finite((0.0, 1.0))
    assert kinds["year"].values == tuple(float(year) for year in range(1850, 1963))
    count = kinds["count"].values
    assert count[0] == 0
    assert scipy.stats.poisson(3.0).sf(count[-1]) < 1e-13
    assert target.support.blocks[1].constraint.check(torch.tensor([-1.0, 1.0])).tolist() == [False, True]


def test_the_prior_is_drawn_from_reproducibly_and_without_touching_the_global_generator():
    target = Target.from_prior(normal_and_friends(), gaussian)
    state = torch.get_rng_state()
    draws = [target.sample_prior(4000, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)
    assert torch.equal(state, torch.get_rng_state())
    assert bool(target.support.contains(draws[0]).all())
    mean = dict(zip(target.names, draws[0].mean(0).tolist()))
    for name, expected, sd in [
        ("mu", 1, 2),
        ("u", 1, 1.2),
        ("w[2]", 0.5, 0.2),
        ("rate", 1, 0.7),
        ("count", 3, 1.7),
        ("flag", 0.3, 0.5),
    ]:
        assert mean[name] == pytest.approx(expected, abs=5 * sd / math.sqrt(4000))


def test_log_prior_and_log_likelihood_add_up():
    prior = normal_and_friends()
    target = Target.from_prior(prior, lambda x: -((x - 1.0) ** 2).sum(-1))
    x = target.sample_prior(50, generator=torch.Generator().manual_seed(0))
    expected = (
        torch.distributions.Normal(1.0, 2.0).log_prob(x[:, 0])
        + torch.distributions.HalfCauchy(5.0).log_prob(x[:, 1])
        + torch.distributions.Normal(0.0, 2.0).log_prob(x[:, 2:5]).sum(1)
        - math.log(4)
        + prior["w"].log_prob(x[:, 6:9])
        + torch.distributions.Normal(0.0, 1.0).log_prob(x[:, 9:11]).sum(1)
        + prior["angle"].log_prob(x[:, 11])
        + prior["flag"].log_prob(x[:, 12])
        + torch.from_numpy(scipy.stats.gamma(2.0, scale=0.5).logpdf(x[:, 13].numpy()))
        + torch.from_numpy(scipy.stats.beta(2.0, 3.0).logpdf(x[:, 14].numpy()))
        + torch.from_numpy(scipy.stats.poisson(3.0).logpmf(x[:, 15].numpy()))
        - math.log(113)
    )
    torch.testing.assert_close(target.log_prior(x), expected, rtol=1e-6, atol=1e-6)
    session = target.session()
    torch.testing.assert_close(session(x) - target.log_prior(x), target.log_likelihood(x), rtol=1e-9, atol=1e-9)
    outside = x.clone()
    outside[0, 1], outside[1, 5], outside[2, 13] = -1.0, 9.0, -1.0
    assert target.log_prior(outside)[:4].isinf().tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    "entry",
    [
        torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2, 3), 1.0), 2),
        torch.distributions.LKJCholesky(3, 1.5),
        torch.distributions.Dirichlet(torch.ones(4)),
        torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(torch.ones(2)), torch.distributions.Normal(torch.zeros(2), torch.ones(2))
        ),
        torch.distributions.Binomial(5, torch.tensor(0.3)),
        torch.distributions.Categorical(torch.tensor([0.2, 0.3, 0.5])),
        torch.distributions.Pareto(1.0, 2.0),
        torch.distributions.TransformedDistribution(
            torch.distributions.Normal(0.0, 1.0), torch.distributions.transforms.ExpTransform()
        ),
        scipy.stats.norm(loc=[0.0, 1.0]),
        scipy.stats.vonmises(2.0),
        scipy.stats.binom(5, 0.3),
    ],
)
def test_draws_of_many_distributions_are_points_of_the_target(entry):
    target = Target.from_prior({"a": entry, "b": torch.distributions.Normal(0.0, 1.0)}, gaussian)
    x = target.sample_prior(7, generator=torch.Generator().manual_seed(0))
    session = target.session()
    assert bool(target.support.contains(x).all())
    assert bool(session(x).isfinite().all())
    assert session.has_gradient
    y = target.support.to_y(x)
    torch.testing.assert_close(target.support.to_x(y)[0], x, rtol=0, atol=1e-6)


def test_a_prior_vanishes_outside_of_its_support():
    """Where torch's formula goes on: an exponential at -1."""
    prior = [
        torch.distributions.Exponential(1.0),
        torch.distributions.LogNormal(torch.zeros(2), 1.0),
        scipy.stats.expon(),
    ]
    target = Target.from_prior(prior, gaussian)
    x = torch.ones(4, 4, dtype=torch.float64)
    x[0, 0], x[1, 2], x[2, 3] = -1.0, -1.0, -1.0
    assert target.log_prior(x).isfinite().tolist() == [False, False, False, True]
    assert not bool(target.log_prior(x).isnan().any())


@pytest.mark.parametrize("likelihood", [lambda row: -(row[0] ** 2), lambda x: -(np.asarray(x)[..., 0] ** 2), lambda x: -(x[:, 0] ** 2)])  # fmt: skip
@pytest.mark.parametrize("entry", [torch.distributions.Normal(0.0, 1.0), scipy.stats.norm(0, 1)])
def test_a_likelihood_may_be_written_by_row_or_by_batch(likelihood, entry):
    target = Target.from_prior([entry, entry], likelihood)
    x = grid(20, 2)
    expected = -0.5 * (x**2).sum(1) - math.log(2 * math.pi) - x[:, 0] ** 2
    torch.testing.assert_close(target.session()(x), expected, rtol=1e-6, atol=1e-6)


def test_a_scipy_prior_has_gradients():
    target = Target.from_prior([scipy.stats.gamma(2.0), scipy.stats.norm(0, 2)], lambda x: -(x**2).sum(-1))
    x = grid(10, 2).abs() + 0.1
    session = target.session()
    assert session.has_gradient
    expected = torch.stack([1 / x[:, 0] - 1, -x[:, 1] / 4], 1) - 2 * x
    torch.testing.assert_close(session.value_and_gradient(x)[1], expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("prior", "error", "text"),
    [
        ([], TypeError, "list or a dict"),
        ([3.0], TypeError, r"`prior\[0\]`; got float"),
        ([torch.distributions.Poisson(3.0)], ValueError, "Bound it"),
        ([torch.distributions.Dirichlet(torch.ones(2, 3))], ValueError, "its own entry"),
        ({"a": scipy.stats.multivariate_normal([0, 0])}, TypeError, "frozen"),
    ],
)
def test_priors_are_checked(prior, error, text):
    with pytest.raises(error, match=text):
        Target.from_prior(prior, gaussian)


def test_a_likelihood_of_another_shape_is_not_broadcast():
    prior = [torch.distributions.Normal(0.0, 1.0)] * 3
    with pytest.raises((ValueError, EvaluationError), match="Sum over the last dimension"):
        Target.from_prior(prior, lambda x: -(x**2)).session()(grid(10))
    with pytest.raises(ValueError, match="Target.from_prior"):
        Target(gaussian, dim=2).log_prior(grid(1, 2))
    with pytest.raises(TypeError, match="log_likelihood"):
        Target.from_prior(prior, None)


def test_supports_reach_the_target():
    target = Target(gaussian, support={"tau": positive, "k": C.integer_interval(0, 3), "u": interval(0, 1)})
    assert (target.dim, target.names) == (3, ("tau", "k", "u"))
    assert "gaussian" in repr(target)
