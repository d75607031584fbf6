"""The evaluation choke point: every point paid once, counted, budgeted, batched, and told again exactly."""

import pytest
import torch

from ttvi.errors import BudgetExhausted, EvaluationError
from ttvi.tt.cache import GridFunction

NODES = [
    torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64),
    torch.arange(4, dtype=torch.float64),
    torch.linspace(0, 1, 5, dtype=torch.float64),
]


class Recorder:
    """A function that remembers every row it saw, in order."""

    def __init__(self, function=lambda x: (x * torch.tensor([1.0, 10.0, 100.0], dtype=x.dtype)).sum(1)):
        self.function, self.batches = function, []

    def __call__(self, x):
        self.batches.append(x.clone())
        return self.function(x)

    @property
    def rows(self):
        return torch.cat(self.batches)


def build(function, nodes=NODES, **options):
    return GridFunction(function, nodes, caller="fit", argument="log_density", **{"invalid": -torch.inf, **options})


def random_indices(count, seed, sizes=(3, 4, 5)):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(n, (count,), generator=generator) for n in sizes], 1)


def distinct(rows):
    return torch.unique(rows, dim=0) if rows.shape[1] else rows[:1]


def exact(grid, indices):
    x = torch.stack([grid.nodes[k][indices[..., k]] for k in range(3)], -1)
    return (x * torch.tensor([1.0, 10.0, 100.0], dtype=x.dtype)).sum(-1)


def all_fibers(grid, left, right, k):
    """What fibers() promises, entry by entry."""
    result = torch.empty(len(left), grid.mode_sizes[k], len(right), dtype=torch.float64)
    for a in range(len(left)):
        for i in range(grid.mode_sizes[k]):
            for b in range(len(right)):
                result[a, i, b] = exact(grid, torch.cat([left[a], torch.tensor([i]), right[b]]))
    return result


def test_values_and_fibers_agree_with_the_function_and_nothing_is_paid_twice():
    record = Recorder()
    grid = build(record)
    for seed in range(6):
        indices = random_indices(20, seed)
        torch.testing.assert_close(grid.values(indices), exact(grid, indices), rtol=0, atol=0)
        for k in range(3):
            left, right = (
                distinct(random_indices(3, seed + 10)[:, :k]),
                distinct(random_indices(2, seed + 20)[:, k + 1 :]),
            )
            torch.testing.assert_close(grid.fibers(left, right), all_fibers(grid, left, right, k), rtol=0, atol=0)
    seen = [tuple(row) for row in record.rows.tolist()]
    assert len(seen) == len(set(seen)) == grid.num_evaluations <= 60


def test_the_whole_grid_costs_its_size():
    record = Recorder()
    grid = build(record)
    everything = torch.cartesian_prod(*[torch.arange(n) for n in (3, 4, 5)])
    grid.values(everything.repeat(2, 1)[torch.randperm(120, generator=torch.Generator().manual_seed(0))])
    grid.values(everything)
    assert (grid.num_evaluations, len(record.batches)) == (60, 1)


def test_the_table_grows():
    nodes = [torch.arange(300, dtype=torch.float64)] * 3
    record = Recorder()
    grid = build(record, nodes)
    chunks = [random_indices(30_000, seed, (300, 300, 300)) for seed in range(3)]
    for chunk in chunks:
        grid.values(chunk)
    distinct = torch.unique(torch.cat(chunks), dim=0)
    assert grid.num_evaluations == len(distinct) > 4 * (1 << 14)
    for chunk in chunks:
        torch.testing.assert_close(grid.values(chunk), exact(grid, chunk), rtol=0, atol=0)
    assert grid.num_evaluations == len(distinct)


def test_points_and_values_reproduce_what_the_function_saw_in_order():
    record = Recorder()
    grid = build(record, max_batch=7)
    grid.values(random_indices(9, 0))
    grid.fibers(random_indices(2, 1)[:, :1], random_indices(3, 2)[:, 2:])
    grid.off_grid(torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]], dtype=torch.float64))
    grid.reversed().fibers(random_indices(2, 3)[:, 2:], random_indices(3, 4)[:, :1].flip(1))
    grid.values(random_indices(9, 5))
    points, values = grid.points()
    assert torch.equal(points, record.rows)
    assert torch.equal(values, record.function(points))
    assert grid.num_evaluations == len(points)
    assert grid.largest == float(values.max())


def test_no_points_yet():
    points, values = build(Recorder()).points()
    assert (points.shape, values.shape) == ((0, 3), (0,))


def test_max_batch_splits_calls():
    record = Recorder()
    grid = build(record, max_batch=7)
    everything = torch.cartesian_prod(*[torch.arange(n) for n in (3, 4, 5)])
    torch.testing.assert_close(grid.values(everything), exact(grid, everything))
    assert [len(batch) for batch in record.batches] == [7] * 8 + [4]


def test_the_budget_raises_before_the_call_and_keeps_what_was_paid():
    record = Recorder()
    grid = build(record, budget=10)
    first = torch.unique(random_indices(8, 0), dim=0)
    paid = grid.values(first)
    assert grid.remaining == 10 - len(first)
    calls = len(record.batches)
    with pytest.raises(BudgetExhausted, match=f"evaluations wanted, {10 - len(first)} left"):
        grid.fibers(torch.tensor([[0], [1], [2]]), torch.tensor([[0], [1]]))
    assert (len(record.batches), grid.num_evaluations) == (calls, len(first))
    assert torch.equal(grid.values(first), paid)  # known values are free
    with pytest.raises(BudgetExhausted):
        grid.off_grid(torch.zeros(11, 3, dtype=torch.float64))
    assert grid.num_evaluations == len(first)
    assert build(Recorder()).remaining == float("inf")


def test_nan_and_plus_infinity_are_counted_and_replaced():
    bad = torch.tensor([0.0, torch.nan, torch.inf, -torch.inf], dtype=torch.float64)
    grid = build(lambda x: bad[x[:, 1].long()])
    values = grid.values(torch.tensor([[0, 0, 0], [0, 1, 0], [0, 2, 0], [0, 3, 0]]))
    assert values.tolist() == [0.0, -torch.inf, -torch.inf, -torch.inf]
    assert grid.num_invalid == 2  # a density may be zero
    assert grid.largest == 0.0
    grid.values(torch.tensor([[0, 1, 0]]))
    assert grid.num_invalid == 2


def test_without_a_replacement_they_are_errors():
    grid = build(lambda x: torch.where(x[:, 1] == 2, torch.nan, 1.0), invalid=None)
    grid.values(torch.tensor([[0, 0, 0]]))
    with pytest.raises(
        EvaluationError,
        match=r"fit: expected `log_density` to return finite values; got 1 .* first at \[0.5, 2.0, 0.0\]",
    ):
        grid.values(torch.tensor([[0, 1, 0], [1, 2, 0]]))


def test_a_failure_keeps_the_batches_before_it():
    def fails_at_the_end(x):
        if bool((x[:, 0] == 2.0).any()):
            raise RuntimeError("disk full")
        return x.sum(1)

    record = Recorder(fails_at_the_end)
    grid = build(record, max_batch=10)
    everything = torch.cartesian_prod(*[torch.arange(n) for n in (3, 4, 5)])
    fibers = grid.fibers(everything[:20, :1][:1], torch.tensor([[0, 0]])[:, 1:])
    with pytest.raises(EvaluationError, match="it raised RuntimeError: disk full") as caught:
        grid.fibers(torch.tensor([[0], [1], [2]]), torch.tensor([[1], [2], [3]]))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert grid.num_evaluations == fibers.numel() + 20
    points, values = grid.points()
    assert torch.equal(points, record.rows[: len(points)])
    assert torch.equal(values, points.sum(1))
    calls = len(record.batches)
    grid.fibers(torch.tensor([[0]]), torch.tensor([[1], [2], [3]]))  # among the 20: free
    assert len(record.batches) == calls


def test_the_reversed_grid_agrees():
    record = Recorder()
    grid = build(record)
    mirrored = grid.reversed()
    assert mirrored.mode_sizes == (5, 4, 3)
    assert mirrored.reversed() is grid
    left, right = random_indices(3, 0)[:, :1], random_indices(2, 1)[:, 2:]
    forward = grid.fibers(left, right)
    paid = grid.num_evaluations
    backward = mirrored.fibers(right.flip(1), left.flip(1))
    assert torch.equal(backward, forward.permute(2, 1, 0))
    assert grid.num_evaluations == paid
    suffixes = random_indices(6, 2)[:, 1:]
    assert torch.equal(mirrored.keys(suffixes.flip(1)), grid.keys(suffixes, 1))
    prefixes = random_indices(6, 3)[:, :2]
    assert torch.equal(mirrored.keys(prefixes.flip(1), 1), grid.keys(prefixes, 0))


def test_keys_of_parts_add_up():
    grid = build(Recorder())
    indices = random_indices(10, 4)
    assert torch.equal(grid.keys(indices[:, :1]) + grid.keys(indices[:, 1:], 1), grid.keys(indices))
    everything = torch.cartesian_prod(*[torch.arange(n) for n in (3, 4, 5)])
    assert len(torch.unique(grid.keys(everything))) == 60


def test_a_function_that_works_in_place_spoils_nothing():
    x = torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64)
    grid = build(lambda x: x.mul_(2).sum(1))
    assert float(grid.off_grid(x)) == pytest.approx(1.2)
    assert float(grid.values(torch.tensor([[1, 2, 4]]))) == pytest.approx(7.0)
    assert x.tolist() == [[0.1, 0.2, 0.3]]
    assert grid.points()[0].tolist() == [[0.1, 0.2, 0.3], [0.5, 2.0, 1.0]]


def test_gradients_are_not_recorded():
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    assert not build(lambda x: x @ weight).values(random_indices(3, 0)).requires_grad
