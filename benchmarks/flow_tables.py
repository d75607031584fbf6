"""Tables and pictures of `benchmarks.tensorizing_flows`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.common import Record, number, table, thousands
from benchmarks.fit import middle_of, spread

NAMES = {
    "gaussian-flow": "Gaussian + flow",
    "train": "tiny train",
    "train-flow": "tiny train + flow",
    "train-budget": "train, same evaluations",
    "fit": "`ttvi.fit`",
    "normflows-realnvp": "normflows RealNVP",
    "normflows-spline": "normflows spline",
    "zuko-realnvp": "zuko RealNVP",
    "zuko-spline": "zuko spline",
}
HEADER = [
    "target",
    "method",
    "seeds",
    "KL(q‖p)",
    "KL(p‖q)",
    "ESS",
    "abs Δ log Z",
    "shares of the modes",
    "evaluations",
    "CPU s",
]
COLOURS = {"gaussian-flow": "tab:blue", "train-flow": "tab:orange"}
FLOOR = 1e-3
"""Nats below which the curves are not told apart."""
LINES = {"train": ("tab:green", "--"), "train-budget": ("tab:red", ":"), "fit": ("black", "-.")}


def best_evidence(rows: Sequence[Record]) -> float:
    """The evidence found by the run with the largest effective share: what a target without exact value is held to."""
    found = [row for row in rows if row.get("log_evidence") is not None]
    return max(found, key=lambda row: row["ess"])["log_evidence"] if found else math.nan


def completed(rows: Sequence[Record], found: Mapping[str, float | None]) -> list[Record]:
    """The rows, with the divergence from an evidence that was `found` where there is no exact one; those are `relative`."""
    result = []
    for row in rows:
        if "elbo" in row and "kl" not in row:
            best = found.get(row["case"]) or best_evidence([other for other in rows if other["case"] == row["case"]])
            row = {**row, "kl": best - row["elbo"], "relative": best}
        result.append(row)
    return result


def summary(rows: Sequence[Record], found: Mapping[str, float | None]) -> str:
    """Medians over the seeds, the worst in brackets."""
    rows = completed(rows, found)
    lines: list[list[object]] = []
    for case in dict.fromkeys(row["case"] for row in rows):
        for method in NAMES:
            group = [row for row in rows if row["case"] == case and row["method"] == method]
            if group:
                lines.append([case, NAMES[method], *cells(group)])
    return table(HEADER, lines)


def cells(group: Sequence[Record]) -> list[object]:
    """The cells of one method on one target."""
    good = [row for row in group if "failure" not in row]
    seeds = str(len(good)) if len(good) == len(group) else f"{len(good)} of {len(group)}"
    if not good:
        reasons = sorted({row["failure"] for row in group})
        return [seeds, "; ".join(reasons), *["–"] * 6]
    mark = "†" if any("relative" in row for row in good) else ""
    return [
        seeds,
        spread(good, "kl") + mark,
        spread(good, "forward_kl"),
        spread(good, "ess", worst=min),
        spread(good, "error"),
        mode_cell(good),
        thousands(middle_of(good, "evaluations")),
        number(middle_of(good, "cpu"), 2),
    ]


def mode_cell(group: Sequence[Record]) -> str:
    """Two modes: the share of the first, smallest to largest over the seeds; more: how many hold a fifth of their weight."""
    shares = [row["shares"] for row in group if row.get("shares")]
    if not shares:
        return "–"
    if len(shares[0]) == 2:
        first = sorted(share[0] for share in shares)
        return f"{first[0]:.2f}" if len(first) == 1 else f"{first[0]:.2f}–{first[-1]:.2f}"
    found = [sum(part >= 0.2 / len(share) for part in share) for share in shares]
    return (
        f"{median(found):g} of {len(shares[0])} ({min(found)}); {min(map(min, shares)):.2f}–{max(map(max, shares)):.2f}"
    )


def curves(rows: Sequence[Record], evidence: Mapping[str, float | None], folder: Path) -> list[Path]:
    """One picture per target: what the bound still lacks against the evaluations, every seed a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = completed(rows, evidence)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == case and "failure" not in row]
        value = evidence.get(case) or best_evidence(own)
        figure, axes = plt.subplots(figsize=(4.2, 2.9), layout="constrained")
        for method, colour in COLOURS.items():
            for index, row in enumerate(row for row in own if row["method"] == method):
                first = row["history"][0][0]
                steps, gap = zip(*[(point[0] - first, max(value - point[1], FLOOR)) for point in row["history"]])
                axes.plot(steps, gap, color=colour, lw=1, alpha=0.8, label=NAMES[method] if index == 0 else None)
        for method, (colour, style) in LINES.items():
            level = middle_of([row for row in own if row["method"] == method], "kl")
            if level is not None and math.isfinite(level):
                axes.axhline(max(level, FLOOR), color=colour, ls=style, lw=1, label=NAMES[method].strip("`"))
        axes.set(yscale="log", xlabel="evaluations of the flow", ylabel="log Z − ELBO (nats)")
        axes.set_ylim(bottom=0.8 * FLOOR)
        axes.set_title(case, fontsize=9)
        axes.legend(fontsize=7)
        written.append(folder / f"tensorizing-flows-{case}.png")
        figure.savefig(written[-1], dpi=90)
        plt.close(figure)
    return written
