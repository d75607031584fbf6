"""What the comparison of docs/accuracy.md computes beside the library: exact draws of chains, its table and pictures."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch

from ttvi import problems
from ttvi.diagnostics import effective_sample_size, log_evidence

reason = "run from the root of the repository: python -m pytest"
chain_draws = pytest.importorskip("benchmarks.chain_draws", reason=reason)
flow_tables = pytest.importorskip("benchmarks.flow_tables", reason=reason)
peers = pytest.importorskip("benchmarks.gaussian_peers", reason=reason)
comparison = pytest.importorskip("benchmarks.tensorizing_flows", reason=reason)

PRECISION = torch.tensor([[2.0, -0.8, 0.0], [-0.8, 2.0, 0.5], [0.0, 0.5, 1.0]], dtype=torch.float64)


def gaussian_chain(x: torch.Tensor) -> torch.Tensor:
    """Unnormalised log-density with a tridiagonal precision."""
    return -0.5 * ((x @ PRECISION) * x).sum(1)


def test_exact_draws_have_the_moments_of_a_gaussian_chain():
    box = torch.full((3,), 8.0, dtype=torch.float64)
    draws = chain_draws.chain_draws(
        gaussian_chain, -box, box, cells=[160] * 3, draws=20_000, generator=torch.Generator().manual_seed(0)
    )
    exact = 1.5 * math.log(2 * math.pi) - 0.5 * float(torch.logdet(PRECISION))
    assert log_evidence(draws.log_weights)[0] == pytest.approx(exact, abs=2e-3)
    assert effective_sample_size(draws.log_weights) > 0.98
    mean = draws.share @ draws.x
    covariance = (draws.share[:, None] * draws.x).T @ draws.x
    assert float(mean.abs().max()) < 0.03
    assert torch.allclose(covariance, torch.linalg.inv(PRECISION), atol=0.04)


def test_exact_draws_know_the_evidence_of_the_spin_glass():
    problem = problems.get("spin-glass-chain-35")
    draws = chain_draws.chain_draws(
        problem.log_density,
        problem.lower,
        problem.upper,
        cells=[100] * problem.dim,
        draws=2000,
        generator=torch.Generator().manual_seed(0),
    )
    value, error = log_evidence(draws.log_weights)
    assert abs(value - problem.log_evidence) < 5 * error


def test_every_target_is_a_problem():
    assert set(comparison.SETTINGS) <= set(problems.names())


def test_a_flow_of_another_library_is_moved_onto_the_gaussian():
    loc = torch.tensor([1.0, -2.0], dtype=torch.float64)
    gaussian = torch.distributions.MultivariateNormal(loc, torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64))
    normal = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)

    def draw(count):
        u = normal.sample((count,))
        return u, normal.log_prob(u)

    moved = peers.OnGaussian(gaussian, normal.log_prob, draw)
    x, log_prob = moved.pairs(7)
    assert torch.allclose(log_prob, gaussian.log_prob(x), atol=1e-5)
    assert torch.allclose(moved.log_prob(x), gaussian.log_prob(x), atol=1e-5)
    first, again = (moved.sample((3,), generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)


def test_a_trained_flow_is_judged_even_where_the_library_rejects_it(monkeypatch):
    """The base is worth a second look only through its bound: with a verdict that rejects all, the trained flow comes back."""
    pytest.importorskip("safetensors")
    setup = pytest.importorskip("ttvi.flow.train")
    compare = setup.compare
    monkeypatch.setattr(setup, "compare", lambda *given: dataclasses.replace(compare(*given), better=False))
    base = torch.distributions.MultivariateNormal(
        torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    )
    target = SimpleNamespace(dim=2, log_density=lambda x: -0.5 * (x[:, 0].square() + (x[:, 1] - 1).square()))
    options = comparison.parse(["--steps", "200", "--batch", "64"])
    flow, info = comparison.trained(base, base.sample((500,)), target, options, 0)
    assert not info.kept
    x, log_prob = flow.sample_and_log_prob((2000,), generator=torch.Generator().manual_seed(0))
    before = math.log(2 * math.pi) - 0.5
    assert float((target.log_density(x) - log_prob).mean()) > before + 0.3


def rows():
    """Two methods on a target without exact evidence, and one that ran out of time."""
    shared = {"ess": 0.5, "elbo": -1.0, "log_evidence": -0.75, "evaluations": 1000, "cpu": 2.0, "shares": [0.4, 0.6]}
    curve = {"history": [[0, -3.0, 0.1], [500, -1.0, 0.5]]}
    return [
        {"case": "a", "seed": 0, "method": "train-flow", **shared, **curve},
        {"case": "a", "seed": 1, "method": "train-flow", **shared, **curve, "elbo": -2.0, "shares": [0.7, 0.3]},
        {"case": "a", "seed": 0, "method": "fit", **shared, "elbo": -0.5, "ess": 0.9, "log_evidence": -0.25},
        {"case": "a", "seed": 1, "method": "fit", "failure": "timeout after 1 s"},
    ]


def test_table_holds_the_divergence_to_the_best_evidence():
    lines = flow_tables.summary(rows(), {}).splitlines()
    flow, fit = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])
    assert flow[1:4] == ["tiny train + flow", "2", "1.2 (1.8)†"]
    assert flow[7] == "0.40–0.70"
    assert fit[1:4] == ["`ttvi.fit`", "1 of 2", "0.25 (0.25)†"]
    assert "0.75 (0.75)†" in flow_tables.summary(rows(), {"a": 0.25})


def test_modes_are_counted_where_there_are_more_than_two():
    group = [{"shares": [0.2] * 5}, {"shares": [0.5, 0.45, 0.05, 0.0, 0.0]}]
    assert flow_tables.mode_cell(group) == "4 of 5 (3); 0.00–0.50"
    assert flow_tables.mode_cell([{}]) == "–"


def test_pictures_are_small(tmp_path):
    pytest.importorskip("matplotlib")
    (picture,) = flow_tables.curves(rows(), {}, tmp_path)
    assert 0 < picture.stat().st_size < 60_000
