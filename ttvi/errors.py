"""Named warnings and errors."""

from __future__ import annotations

from typing import Any

__all__ = ["BudgetExhausted", "ConvergenceWarning", "EvaluationError", "MissingExtraError", "SupportError"]


class ConvergenceWarning(UserWarning):
    """An approximation was returned that did not reach the tolerance asked for."""


class SupportError(ValueError):
    """A point, an interval or a coordinate lies outside the support it must belong to."""


class EvaluationError(RuntimeError):
    """The user's function failed, or returned something unusable, in the middle of a fit.

    Attributes:
        info: the report of the interrupted fit; ``info.points()`` and ``info.values`` hold every evaluation paid for so far.
    """

    def __init__(self, message: str, info: Any = None) -> None:
        super().__init__(message)
        self.info = info


class BudgetExhausted(RuntimeError):
    """The evaluation budget does not cover the next batch (internal signal: a fit reports it as a status)."""


class MissingExtraError(ImportError):
    """An optional dependency is not installed."""

    def __init__(self, caller: str, package: str, extra: str) -> None:
        super().__init__(
            f"{caller}: expected the package `{package}`; it is not installed. Run `pip install ttvi[{extra}]`."
        )
