"""Every rule of the verdict, from both sides of its threshold."""

from __future__ import annotations

import json
import math

import pytest
import torch

from ttvi.diagnostics import WeightedDraws
from ttvi.records import from_json, to_json
from ttvi.verdict import CensusMode, Diagnostics, verdict

GOOD = Diagnostics(
    log_evidence=-3.0,
    standard_error=0.01,
    ess=0.9,
    pareto_k=0.3,
    num_draws=4000,
    num_evaluations=50_000,
    status="converged",
    ranks=(1, 5, 1),
    mode_census=(CensusMode((0.0, 1.0), 2.0, 5.0, True),),
)


def mode(covered=False, mass=0.1):
    return CensusMode((1.0,), 0.0, -30.0, covered, mass)


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, "good", "90% of the draws are effective"),
        ({"ess": 0.7}, "good", "70%"),
        ({"ess": 0.69}, "usable with weights", "69% of the draws"),
        ({"ess": 0.05}, "usable with weights", "5% of the draws"),
        ({"ess": 0.049}, "do not trust", "Only 196 of 4000 draws"),
        ({"ess": 0.2, "num_draws": 499}, "do not trust", "Only 100 of 499"),
        ({"ess": 0.2, "num_draws": 500}, "usable with weights", "20% of the draws"),
        ({"ess": 0.0}, "do not trust", "zero density under the target"),
        ({"log_evidence": -math.inf}, "do not trust", "zero density under the target"),
        ({"num_draws": 0, "ess": math.nan}, "do not trust", "no importance weights"),
        ({"pareto_k": 0.69}, "good", "Pareto k 0.69"),
        ({"pareto_k": -math.inf, "ess": 1.0}, "good", "100%"),
        ({"pareto_k": 0.71}, "usable with weights", "Pareto k is 0.71"),
        ({"pareto_k": 0.71, "ess": 0.49}, "do not trust", "a few draws decide"),
        ({"pareto_k": 1.0}, "do not trust", "a few draws decide"),
        ({"pareto_k": math.inf}, "do not trust", "a few draws decide"),
        ({"pareto_k": 3.0, "ess": 0.99}, "good", "too nearly equal"),
        ({"mode_census": None}, "usable with weights", "No independent starts"),
        ({"mode_census": ()}, "good", "no mode is missing"),
        ({"mode_census": (mode(),)}, "do not trust", "1 mode that the approximation misses, with about 10.0%"),
        ({"mode_census": (mode(), mode(mass=0.2))}, "do not trust", "2 modes that the approximation misses, with about 30"),
        ({"mode_census": (mode(mass=math.nan),)}, "do not trust", "with an unknown part"),
        ({"mode_census": (mode(), mode(mass=math.nan))}, "do not trust", "with an unknown part"),
        ({"mode_census": (mode(mass=1e-3),)}, "do not trust", "1 mode"),
        ({"mode_census": (mode(mass=9e-4),)}, "good", "negligible mass"),
        ({"mode_census": (mode(covered=True),)}, "good", "no mode is missing"),
        ({"num_nan": 2500}, "good", "90%"),
        ({"num_nan": 2000, "num_infinite": 400, "num_failed": 200}, "usable with weights", "5% of the evaluations were NaN"),
    ],
)  # fmt: skip
def test_rules(changes, level, words):
    found = verdict(GOOD.replace(**changes))
    assert found.level == level
    assert words in " ".join(found.reasons)
    assert found.next_step.endswith(".")
    assert str(found).startswith(f"{level}: ")


@pytest.mark.parametrize("ess", [0.999999, 0.9, 0.3, 0.01])
def test_a_lost_mode_is_never_good(ess):
    found = verdict(GOOD.replace(ess=ess, mode_census=(mode(),)))
    assert found.level == "do not trust"
    assert "misses" in found.reasons[0]
    assert "initial points" in found.next_step


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ("rank-limited", "max_rank"),
        ("basis-limited", "basis sizes"),
        ("budget exhausted", "budget"),
        ("interrupted", "checkpoint"),
        ("stalled", "geometry"),
        ("converged", "budget"),
        ("", "budget"),
    ],
)
def test_next_step_follows_the_status(status, word):
    usable = verdict(GOOD.replace(ess=0.4, status=status)).next_step
    assert word in usable
    assert "corrected=True" in usable
    assert word in verdict(GOOD.replace(ess=0.01, status=status)).next_step
    assert verdict(GOOD.replace(status=status)).next_step.startswith("Nothing")


def test_two_findings_are_both_told_the_worse_first():
    found = verdict(GOOD.replace(ess=0.01, pareto_k=0.8, num_nan=50_000))
    assert found.level == "do not trust"
    assert len(found.reasons) == 3
    assert "NaN" in found.reasons[-1]


def test_coverage_of_a_mode():
    """Two equal Gaussians of which q holds one: half of the mass is missing, p̃ is the sum."""
    volume = 0.5 * math.log(2 * math.pi)
    arguments = {"log_density": 0.0, "log_evidence": volume, "log_volume": volume}  # log Z of what q has
    held = CensusMode.judge(torch.zeros(1), log_prob=-volume, **arguments)
    assert held.covered
    assert held.missing_mass == 0.0
    lost = CensusMode.judge(torch.ones(1), log_prob=-50.0, **arguments)
    assert lost.lost
    assert lost.missing_mass == pytest.approx(0.5)
    unknown = CensusMode.judge(torch.ones(1), log_prob=-math.inf, log_density=0.0, log_evidence=0.0)
    assert unknown.lost
    assert math.isnan(unknown.missing_mass)
    tiny = CensusMode.judge(torch.ones(1), log_prob=-math.inf, log_density=-2000.0, log_evidence=0.0, log_volume=0.0)
    assert not tiny.covered
    assert not tiny.lost


def test_diagnostics_survive_json():
    full = GOOD.replace(
        pareto_k=-math.inf,
        stages={"train": (1000, 0.5), "certificate": (4000, 0.1)},
        geometry=("whitened: it pays",),
        candidates=({"name": "axis", "ess": 0.2}, {"name": "affine", "ess": 0.9}),
        mode_sizes=(8, 8),
        expected_kl=0.05,
        train_error=1e-4,
        missing_mass=0.002,
    )
    values = from_json(json.loads(json.dumps(to_json(full.to_dict()), allow_nan=False)))
    assert Diagnostics.from_dict(values | {"a field of a later version": 3}) == full
    assert Diagnostics.from_dict({}).num_draws == 0


def test_from_draws_is_the_certificate():
    draws = WeightedDraws(torch.zeros(8, 1), torch.linspace(-1, 1, 8), num_nan=2)
    found, certificate = Diagnostics.from_draws(draws, status="converged"), draws.certificate()
    assert (found.ess, found.log_evidence, found.num_draws) == (certificate.ess, certificate.log_evidence, 8)
    assert found.num_invalid == 2
    assert found.status == "converged"


def test_a_population_that_the_approximation_does_not_hold():
    assert verdict(GOOD.replace(missing_mass=0.004)).level == "good"
    assert verdict(GOOD.replace(missing_mass=0.03)).level == "usable with weights"
    assert verdict(GOOD.replace(missing_mass=0.2)).level == "do not trust"
    assert "20.0%" in verdict(GOOD.replace(missing_mass=0.2)).reasons[0]
