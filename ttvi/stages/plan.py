"""What a fit may spend, and the numbers that several stages share."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ENOUGH", "MOST_PER_TRAIN", "NEAR", "PARTICLES", "RANKS", "SPEAKS", "Plan"]

RANKS = (12, 24, 48, 96)
ENOUGH = 0.97  # effective share at which nothing more is tried
NEAR = 0.3  # effective share from which on a train is worth polishing whatever the others do
SPEAKS = 0.05  # effective share from which on the draws of a product say something of what a train lacks
CHECKS = 4096
PARTICLES = 1024  # of the population that is brought to where the mass is
MOST_PER_TRAIN = 5_000_000


@dataclass(frozen=True)
class Plan:
    """Who may spend how much; None is no bound.

    Attributes:
        budget: in all.
        tol: relative tolerance of the trains.
        max_rank: cap on their ranks.
        geometry: "auto" or the name of a chart.
        flow: whether a flow may polish.
        certificate: draws of the certificate.
    """

    budget: int | None
    tol: float
    max_rank: int
    geometry: str
    flow: bool
    certificate: int

    def share(self, part: float, least: int = 1) -> int | None:
        """A part of the budget."""
        return None if self.budget is None else max(least, int(part * self.budget))

    @property
    def checks(self) -> int:
        """Draws of one look at a density."""
        return CHECKS if self.budget is None else max(64, min(CHECKS, self.budget // 60))

    def trial(self, dim: int) -> int:
        """Evaluations of a trial."""
        free = max(30_000, 6000 * dim)
        return free if self.budget is None else max(200, min(free, self.budget // 12))
