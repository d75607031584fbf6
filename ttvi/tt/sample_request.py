"""Arguments of a fit to samples: checked once, with the remedy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import SupportError
from .basis import Basis

__all__ = ["check_numbers", "checked_bases", "checked_rows"]

MIN_ROWS = 20


def check_numbers(max_rank: int, tol: float, validation: float, seconds: float | None, dtype: torch.dtype) -> None:
    """Raise if a number is out of range."""
    if int(max_rank) != max_rank or max_rank < 1:
        raise ValueError(f"fit_samples: expected max_rank to be a positive integer; got {max_rank}. The default is 32.")
    if not (tol >= 0 and math.isfinite(tol)):
        raise ValueError(f"fit_samples: expected tol >= 0, in nats; got {tol}. The default is 1e-3.")
    if not 0 < validation < 1:
        raise ValueError(f"fit_samples: expected 0 < validation < 1; got {validation}. The default is 0.1.")
    if seconds is not None and not seconds > 0:
        raise ValueError(f"fit_samples: expected seconds > 0; got {seconds}. Leave it out for no limit.")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(
            f"fit_samples: expected a floating-point dtype; got {dtype}. Use torch.float64 or torch.float32."
        )


def checked_rows(x: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows of positive weight, shape ``(m, d)``, and their weights, of mean one."""
    if not isinstance(x, Tensor) or x.is_complex():
        raise TypeError(f"fit_samples: expected a real tensor; got {type(x).__name__}. Use torch.as_tensor.")
    x = x.detach()
    if x.dim() != 2 or x.shape[1] < 1 or len(x) < MIN_ROWS:
        raise ValueError(
            f"fit_samples: expected samples of shape (m, d), m >= {MIN_ROWS}; got {tuple(x.shape)}. One row per sample."
        )
    bad = int((~torch.isfinite(x)).any(1).sum())
    if bad:
        raise ValueError(
            f"fit_samples: expected finite samples; got {bad} rows with NaN or infinities. Drop those rows."
        )
    if weights is None:
        return x, torch.ones(len(x), dtype=torch.float64, device=x.device)
    weights = torch.as_tensor(weights, device=x.device).detach()
    if weights.shape != x.shape[:1]:
        raise ValueError(
            f"fit_samples: expected weights of shape ({len(x)},); got {tuple(weights.shape)}. One per sample."
        )
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()) or int((weights > 0).sum()) < MIN_ROWS:
        raise ValueError(
            f"fit_samples: expected finite weights >= 0, {MIN_ROWS} at least positive; got others. Exponentiate log-weights "
            "after subtracting their maximum."
        )
    keep = weights > 0
    return x[keep], weights[keep].double() / float(weights[keep].double().mean())


def checked_bases(x: Tensor, bases: Sequence[Basis | None] | None) -> list[Basis | None]:
    """One entry per column, each a basis that holds the column, or ``None``."""
    given: list[Basis | None] = [None] * x.shape[1] if bases is None else list(bases)
    if len(given) != x.shape[1] or not all(basis is None or isinstance(basis, Basis) for basis in given):
        raise ValueError(
            f"fit_samples: expected {x.shape[1]} bases (or None where one is to be chosen); got {given!r}. One per column."
        )
    for k, basis in enumerate(given):
        column = x[:, k]
        if basis is None:
            if not bool(column.max() > column.min()):
                raise ValueError(
                    f"fit_samples: expected column {k} to vary; got the value {float(column[0])} in every row. Drop it or pass "
                    "a basis for it."
                )
        elif not basis.periodic and not bool(basis.support.check(column).all()):
            outside = column[~basis.support.check(column)]
            raise SupportError(
                f"fit_samples: expected column {k} in the support of {basis!r}; got {float(outside[0])}. Widen the basis or "
                "drop those rows."
            )
    return given
