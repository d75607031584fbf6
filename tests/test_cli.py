"""The command line on small problems, and its errors."""

from __future__ import annotations

import json
import math

import pytest
import torch

import ttvi
from ttvi import cli


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A finished run on the coal-mining disasters: an integer and two positive rates, no box."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("safetensors")
    directory = tmp_path_factory.mktemp("run") / "deep" / "er"
    code = cli.main(["fit", "coal-mining", "--budget", "50000", "--seed", "1", "--save", str(directory)])
    assert code == 0
    return directory


def test_files(saved):
    assert {"record.json", "summary.json", "corner.png"} <= {path.name for path in saved.iterdir()}
    assert (saved / "corner.png").read_bytes().startswith(b"\x89PNG")


def test_summary(saved):
    summary = json.loads((saved / "summary.json").read_text(encoding="utf-8"))
    assert summary["problem"] == "coal-mining"
    assert [row["name"] for row in summary["coordinates"]] == ["year", "early", "late"]
    assert summary["diagnostics"]["num_evaluations"] <= 50_000
    assert summary["verdict"] in ("good", "usable with weights", "do not trust")
    assert abs(summary["truth"]["difference"]) < 0.05
    assert summary["truth"]["mean_error"] < 0.1


def test_posterior_can_be_loaded(saved):
    posterior = ttvi.load(saved)
    assert posterior.names == ("year", "early", "late")
    x = posterior.sample(100, seed=0)
    assert torch.isfinite(posterior.log_prob(x)).all()


def test_table(capsys):
    assert cli.main(["fit", "two-modes-2", "--budget", "10000", "--geometry", "axis", "--no-flow"]) == 0
    text = capsys.readouterr().out
    for word in ("log evidence", "effective", "evaluations", "Verdict", "exact", "modes", "x2"):
        assert word in text


def test_quiet_run_prints_nothing_and_is_reproducible(capsys):
    options = cli.Options(problem="von-mises-mixture", budget=5000, quiet=True, seed=3)
    first, second = (cli.run(options).posterior for _ in range(2))
    assert first.log_evidence == second.log_evidence
    assert torch.equal(first.draws, second.draws)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_list(capsys):
    assert cli.main(["problems"]) == 0
    assert "lotka-volterra" in capsys.readouterr().out.split()


@pytest.mark.parametrize(
    "arguments",
    [["fit", "no-such-problem"], ["fit", "ginzburg-landau-2", "--budget", "0"], ["fit", "funnel-2", "--tol", "7"]],
)
def test_errors_are_one_line_and_code_two(arguments, capsys):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    message = captured.err.strip()
    assert message.startswith("ttvi: ")
    assert "\n" not in message


def test_comparison_says_what_is_known():
    truth = {
        "log_evidence": -1.0, "log_evidence_error": 0.004, "difference": 0.002, "mean_error": 0.01,
        "num_modes": 40, "modes_found": 39, "weight_error": 0.03,
    }  # fmt: skip
    text = "\n".join(cli.comparison(truth))
    for word in ("-1.0000", "known to 0.004", "+0.002", "0.01 reference", "39 of 40 modes", "0.03"):
        assert word in text
    assert cli.comparison({}) == []


def test_json_has_no_infinities():
    ready = cli._json_ready({"a": (math.inf, 1.0), "b": [math.nan], "c": None})
    assert json.loads(json.dumps(ready, allow_nan=False)) == {"a": ["inf", 1.0], "b": ["nan"], "c": None}
