"""The command line on a small problem, and its errors."""

from __future__ import annotations

import io
import json
import math
from types import SimpleNamespace

import pytest

from ttvi import cli
from ttvi.tt.density import TTDensity


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """A finished run of a four-dimensional Ginzburg-Landau chain."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("safetensors")
    directory = tmp_path_factory.mktemp("run") / "deep" / "er"
    code = cli.main(["fit", "ginzburg-landau-4", "--tol", "1e-5", "--samples", "4000", "--output", str(directory)])
    assert code == 0
    return directory


def test_files(output):
    assert {path.name for path in output.iterdir()} == {"summary.json", "density.safetensors", "corner.png"}
    assert (output / "corner.png").read_bytes().startswith(b"\x89PNG")


def test_summary(output):
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    assert summary["dim"] == 4
    assert summary["ess"] > 0.99
    assert summary["log_evidence"] == pytest.approx(summary["train_log_evidence"], abs=1e-3)
    assert [row["name"] for row in summary["coordinates"]] == ["x1", "x2", "x3", "x4"]
    # The chain is symmetric under x → −x and under reversal.
    means, sds = ([row[key] for row in summary["coordinates"]] for key in ("mean", "sd"))
    assert means == pytest.approx([0, 0, 0, 0], abs=1e-3)
    assert sds == pytest.approx(sds[::-1], rel=1e-3)


def test_density_can_be_loaded(output):
    density = TTDensity.load(output / "density.safetensors")
    assert density.event_shape == (4,)


def test_table(capsys):
    assert cli.main(["fit", "ginzburg-landau-2", "--samples", "1000"]) == 0
    text = capsys.readouterr().out
    for word in ("log evidence", "ESS", "Pareto k", "evaluations", "largest rank", "x2"):
        assert word in text


def test_quiet_run_prints_nothing_and_is_reproducible(capsys):
    options = cli.Options(problem="ginzburg-landau-2", samples=500, quiet=True, seed=3)
    assert cli.run(options).certificate == cli.run(options).certificate
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_list(capsys):
    assert cli.main(["problems"]) == 0
    assert "lotka-volterra" in capsys.readouterr().out.split()


@pytest.mark.parametrize(
    "arguments",
    [["fit", "no-such-problem"], ["fit", "ginzburg-landau-2", "--samples", "0"]],
)
def test_errors_are_one_line_and_code_two(arguments, capsys):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    message = captured.err.strip()
    assert message.startswith("ttvi: ")
    assert "\n" not in message


def test_table_survives_a_failed_fit():
    summary = {
        "problem": "p",
        "dim": 1,
        "status": "rank-limited",
        "message": "Raise max_rank.",
        "log_evidence": -math.inf,
        "standard_error": math.nan,
        "train_log_evidence": 0.0,
        "exact_log_evidence": None,
        "ess": 0.0,
        "pareto_k": math.inf,
        "num_samples": 10,
        "num_evaluations": 12,
        "seconds": 0.1,
        "max_rank": 3,
        "coordinates": [{"name": f"x{i}", "mean": 0.0, "sd": 1.0} for i in range(30)],
    }
    text = cli.format_table(summary)
    assert "not to be trusted" in text
    assert "and 10 more" in text


def test_progress_line_rewrites_itself():
    stream = io.StringIO()
    line = cli._ProgressLine("chain", stream)
    record = {"stage": "ladder", "beta": 0.25, "sweep": 2, "ranks": [1, 7, 1], "num_evaluations": 1200, "error": None}
    line(SimpleNamespace(**record))
    line(SimpleNamespace(**{**record, "stage": "refine", "beta": 1.0, "error": 1e-3}))
    line.clear()
    first, second = stream.getvalue().split("\r")[1:3]
    assert "β 0.25" in first
    assert "rank 7" in first
    assert "error 1.0e-03" in second
    assert stream.getvalue().endswith("\r")
