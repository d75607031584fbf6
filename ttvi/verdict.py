"""What a fit knows about itself, and what follows from it in words: `Diagnostics` in, `Verdict` out.

The rules, and why their thresholds are where they are:

- *good* asks for an effective fraction of at least 0.7. Log-normal weights of that ESS belong to two densities of total
  variation distance 0.23 and a KL divergence of 0.18 nats: plain draws look like the target, corrected ones lose a third.
- *usable with weights* asks for an effective fraction of at least 0.05 and at least 100 effective draws: a mean then has
  an error of a tenth of a standard deviation, and the estimate of the ESS itself can be believed.
- Pareto k below 0.7 is asked for, as smoothed weights converge at a useful rate below it. Between 0.7 and 1 the mean
  weight exists but is seen late; with half of the draws effective the bulk is right and the fit stays usable.
- k says how the tail of the weights falls off, not how much it holds. At an ESS of 0.99 or more the 3 % largest of 10 000
  weights cannot move a mean by more than √(0.01 · 0.03), 2 % of a standard deviation: k is then left out of account.
- A mode that independent starts found, and q does not cover, is not in the weights at all. If it holds a thousandth of the
  mass, or an unknown amount, the verdict is *do not trust*, whatever the other numbers say.
- A population of the target that moved independently of q sees what no draw of q can: where more than a hundredth of it has
  hardly any density under q, or the evidence by bridge sampling between the two is larger by as much than by the draws of q alone, the fit is
  *usable with weights* at best, and beyond a twentieth *do not trust*.
- Without a census nobody has looked for other modes, so the fit is not called good.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from .diagnostics import WeightedDraws

__all__ = ["CensusMode", "Diagnostics", "Level", "Verdict", "verdict"]

Level = Literal["good", "usable with weights", "do not trust"]

GOOD_ESS = 0.7
USABLE_ESS = 0.05
LEAST_EFFECTIVE_DRAWS = 100
TRUSTED_K = 0.7
LARGEST_K = 1.0
ESS_FOR_A_LARGE_K = 0.5
ESS_THAT_OVERRULES_K = 0.99
LOST_MASS = 1e-3
LOST_SHARE = 0.01
INVALID_SHARE = 0.05
"""Share of evaluations that failed from which on the user should know that zero density stood in for them."""

MODE_GAP = math.log(20.0)
"""A mode counts as covered while q there is at least a twentieth of the normalised target."""


@dataclass(frozen=True)
class CensusMode:
    """One mode that independent starts found, and what the approximation makes of it.

    Attributes:
        point: where it is, shape (dim,) as a tuple.
        log_density: the target's log p̃ there (nats).
        log_prob: the approximation's log q there.
        covered: whether the approximation holds it.
        missing_mass: estimated share of the mass that is missing with it; NaN when unknown, 0 when covered.
        starts: how many starts ended there.
    """

    point: tuple[float, ...]
    log_density: float
    log_prob: float
    covered: bool
    missing_mass: float = 0.0
    starts: int = 1

    @classmethod
    def judge(
        cls,
        point: torch.Tensor,
        *,
        log_density: float,
        log_prob: float,
        log_evidence: float,
        log_volume: float = math.nan,
        starts: int = 1,
    ) -> CensusMode:
        """Decide whether q covers a mode: log p̃ − log Z − log q at most log 20 there.

        Args:
            point: the mode, shape (dim,).
            log_density: log p̃ there.
            log_prob: log q there.
            log_evidence: log Z of the approximation.
            log_volume: log of the mode's volume, mass over peak height; for a Gaussian ½ log det(2π Σ). NaN if unknown.
            starts: how many starts ended there.

        Returns:
            The mode; if not covered, its mass is p̃ · volume less what q has there, as a share of the sum with Z.

        >>> mode = CensusMode.judge(torch.zeros(1), log_density=0.0, log_prob=-9.0, log_evidence=0.0, log_volume=0.0)
        >>> mode.covered, round(mode.missing_mass, 2)
        (False, 0.5)
        """
        gap = log_density - log_evidence - log_prob
        covered = gap <= MODE_GAP
        missing = 0.0
        if not covered:
            share = log_density + log_volume - log_evidence
            missing = math.nan if math.isnan(share) else 1 / (1 + math.exp(min(700.0, -share)))
        place = tuple(float(value) for value in point.detach().flatten().tolist())
        return cls(place, float(log_density), float(log_prob), covered, missing, starts)

    @property
    def lost(self) -> bool:
        """Whether it is missing with a mass that matters, or with an unknown one."""
        return not self.covered and not self.missing_mass < LOST_MASS


@dataclass(frozen=True)
class Diagnostics:
    """Everything a fit reports about itself.

    Attributes:
        log_evidence: estimate of log ∫ p̃ (nats).
        standard_error: its standard error (nats).
        ess: effective fraction of the certificate's draws, in [0, 1].
        pareto_k: shape of the tail of their weights.
        expected_kl: estimate of KL(q ‖ p) (nats).
        num_draws: number of the certificate's draws; 0 if there is no certificate.
        num_evaluations: evaluations paid for, the certificate's included.
        num_nan: evaluations that were NaN; they count as zero density.
        num_infinite: those that were +inf; likewise.
        num_failed: those at which the function raised; likewise.
        status: why the train stopped: "converged", "rank-limited", "basis-limited", "stalled", "budget exhausted",
            "interrupted".
        ranks: of the train, the outer ones included.
        mode_sizes: basis size of every mode.
        stages: name to (evaluations, seconds).
        seconds: wall time.
        mode_census: modes found by independent starts; None if nobody looked.
        missing_mass: share of the mass that a population of the target, moved independently of the approximation, says this
            lacks; NaN if there was none. The larger of the share of the population where the target's density is more than twenty times the
            approximation's, and of what the evidence by bridge sampling exceeds that by weights, less three standard errors.
        train_error: relative L2 error of the train from independent draws.
        geometry: why these coordinates, one sentence each.
        candidates: what was tried, one dict of plain values each.
    """

    log_evidence: float = math.nan
    standard_error: float = math.nan
    ess: float = math.nan
    pareto_k: float = math.nan
    expected_kl: float = math.nan
    num_draws: int = 0
    num_evaluations: int = 0
    num_nan: int = 0
    num_infinite: int = 0
    num_failed: int = 0
    status: str = ""
    ranks: tuple[int, ...] = ()
    mode_sizes: tuple[int, ...] = ()
    stages: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    seconds: float = 0.0
    mode_census: tuple[CensusMode, ...] | None = None
    missing_mass: float = math.nan
    train_error: float = math.nan
    geometry: tuple[str, ...] = ()
    candidates: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def from_draws(cls, draws: WeightedDraws, **others: Any) -> Diagnostics:
        """The numbers that follow from the certificate's draws, and any others by name.

        Counts of evaluations are those of the draws alone, unless given.

        >>> draws = WeightedDraws(torch.zeros(1000, 1), torch.zeros(1000))
        >>> Diagnostics.from_draws(draws, num_evaluations=5000).ess
        1.0
        """
        found = draws.certificate()
        return cls(
            **{
                "log_evidence": found.log_evidence,
                "standard_error": found.standard_error,
                "ess": found.ess,
                "pareto_k": found.pareto_k,
                "expected_kl": found.expected_kl,
                "num_draws": found.num_samples,
                "num_evaluations": found.num_samples,
                "num_nan": draws.num_nan,
                "num_infinite": draws.num_infinite,
                **others,
            }
        )

    @property
    def num_invalid(self) -> int:
        """Evaluations that zero density stands in for."""
        return self.num_nan + self.num_infinite + self.num_failed

    @property
    def missed_modes(self) -> tuple[CensusMode, ...]:
        """Modes that the census found and the approximation lost."""
        return tuple(mode for mode in self.mode_census or () if mode.lost)

    def replace(self, **changes: Any) -> Diagnostics:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Diagnostics:
        """The inverse of `to_dict`; names that this version does not know are left out."""
        known = _known(cls, values)
        for name in ("ranks", "mode_sizes", "geometry", "candidates"):
            known[name] = tuple(known.get(name, ()))
        known["stages"] = {name: (int(n), float(s)) for name, (n, s) in known.get("stages", {}).items()}
        if known.get("mode_census") is not None:
            modes = [_known(CensusMode, mode) for mode in known["mode_census"]]
            known["mode_census"] = tuple(CensusMode(**{**mode, "point": tuple(mode["point"])}) for mode in modes)
        return cls(**known)


def _known(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in dataclasses.fields(cls)}
    return {name: value for name, value in values.items() if name in names}


@dataclass(frozen=True)
class Verdict:
    """A judgement in words.

    Attributes:
        level: "good", "usable with weights" or "do not trust".
        reasons: what it rests on, one sentence each, the most serious first.
        next_step: what to do now.
    """

    level: Level
    reasons: tuple[str, ...]
    next_step: str

    def __str__(self) -> str:
        return "\n".join([f"{self.level}: {' '.join(self.reasons)}", f"Next: {self.next_step}"])


def verdict(diagnostics: Diagnostics) -> Verdict:
    """Judge a fit by its own diagnostics; the rules are those at the top of the module.

    Args:
        diagnostics: what the fit reported.

    Returns:
        The worst level that any rule asks for, the sentences of every rule that spoke, and one next step.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling" (2024).

    >>> verdict(Diagnostics(ess=0.98, pareto_k=0.2, num_draws=4000, log_evidence=0.0, mode_census=())).level
    'good'
    >>> verdict(Diagnostics(ess=0.4, pareto_k=0.5, num_draws=4000, log_evidence=0.0, mode_census=())).level
    'usable with weights'
    """
    findings = [
        finding
        for rule in (_modes, _population, _weights, _tails, _census, _validity)
        if (finding := rule(diagnostics))
    ]
    order: list[Level] = ["do not trust", "usable with weights", "good"]
    findings.sort(key=lambda finding: order.index(finding[0]))
    if not findings or findings[0][0] == "good":
        praise = f"{diagnostics.ess:.0%} of the draws are effective{_k_phrase(diagnostics)}, and no mode is missing."
        reasons = (praise, *(finding[1] for finding in findings))
        return Verdict("good", reasons, "Nothing: sample it, or save it.")
    level = findings[0][0]
    remedies = [remedy for found, _, remedy in findings if found == level and remedy]
    return Verdict(level, tuple(reason for _, reason, _ in findings), _next_step(diagnostics, level, remedies))


_Finding = tuple[Level, str, str]


def _modes(d: Diagnostics) -> _Finding | None:
    lost = d.missed_modes
    if not lost:
        return None
    masses = [mode.missing_mass for mode in lost]
    known = sum(mass for mass in masses if not math.isnan(mass))
    mass = "an unknown part" if any(math.isnan(mass) for mass in masses) else f"about {min(1.0, known):.1%}"
    what = "1 mode" if len(lost) == 1 else f"{len(lost)} modes"
    reason = f"Independent starts found {what} that the approximation misses, with {mass} of the mass."
    return "do not trust", reason, "Fit again with those modes among the initial points, and a larger budget."


def _population(d: Diagnostics) -> _Finding | None:
    if not d.missing_mass > LOST_SHARE:
        return None
    level: Level = "do not trust" if d.missing_mass > 5 * LOST_SHARE else "usable with weights"
    reason = f"The approximation lacks {d.missing_mass:.1%} of the mass by an independent population."
    return level, reason, "Fit again with a larger budget, or in other coordinates (geometry=)."


def _weights(d: Diagnostics) -> _Finding | None:
    if d.num_draws == 0 or math.isnan(d.ess):
        return "do not trust", "There are no importance weights to judge it by.", ""
    if d.ess == 0 or not math.isfinite(d.log_evidence):
        return "do not trust", "Every draw has zero density under the target.", ""
    effective = d.ess * d.num_draws
    if d.ess < USABLE_ESS or effective < LEAST_EFFECTIVE_DRAWS:
        return "do not trust", f"Only {effective:.0f} of {d.num_draws} draws ({d.ess:.1%}) are effective.", ""
    if d.ess < GOOD_ESS:
        return "usable with weights", f"{d.ess:.0%} of the draws are effective; {GOOD_ESS:.0%} would be good.", ""
    return None


def _tails(d: Diagnostics) -> _Finding | None:
    k = d.pareto_k
    if not k >= TRUSTED_K or not d.ess > 0:
        return None
    if d.ess >= ESS_THAT_OVERRULES_K:
        return "good", f"Pareto k is {k:.2f}, but the weights are too nearly equal for their tail to matter.", ""
    if k < LARGEST_K and d.ess >= ESS_FOR_A_LARGE_K:
        return "usable with weights", f"Pareto k is {k:.2f}: error bars may be too small, {TRUSTED_K} is trusted.", ""
    return "do not trust", f"Pareto k is {k:.2f}: a few draws decide the weighted estimates.", ""


def _census(d: Diagnostics) -> _Finding | None:
    if d.mode_census is None:
        remedy = "Fit with a larger budget, so that independent starts can look for other modes."
        return "usable with weights", "No independent starts have looked for other modes.", remedy
    small = [mode for mode in d.mode_census if not mode.covered and not mode.lost]
    if small:
        return "good", f"{len(small)} modes of negligible mass (below {LOST_MASS}) are not covered.", ""
    return None


def _validity(d: Diagnostics) -> _Finding | None:
    if d.num_invalid <= INVALID_SHARE * max(1, d.num_evaluations):
        return None
    share = d.num_invalid / max(1, d.num_evaluations)
    reason = f"{share:.0%} of the evaluations were NaN, +inf or failed; zero density stood in for them."
    return "usable with weights", reason, "Return -inf where the density is zero, and mend the function elsewhere."


def _k_phrase(d: Diagnostics) -> str:
    return f" (Pareto k {d.pareto_k:.2f})" if math.isfinite(d.pareto_k) and d.pareto_k < TRUSTED_K else ""


_REMEDIES = {
    "rank-limited": "Raise max_rank: the train needed higher ranks than it was allowed.",
    "basis-limited": "Raise the basis sizes: the train is right on its nodes, not between them.",
    "budget exhausted": "Raise budget: the fit ended with its evaluations.",
    "interrupted": "Mend the function, which raised, and continue from the checkpoint.",
    "stalled": "Fit in other coordinates (geometry=), or raise budget.",
}


def _next_step(d: Diagnostics, level: Level, remedies: list[str]) -> str:
    """The remedy of the most serious finding, else that of the train's status, else the weights."""
    if remedies:
        return remedies[0]
    better = _REMEDIES.get(d.status, "Raise budget and max_rank, or fit in other coordinates (geometry=).")
    if level == "usable with weights":
        return f"Use the weighted means and sample(corrected=True). To improve: {better[0].lower()}{better[1:]}"
    return better
