"""Some columns of a mixing alone, the others integrated out or known: what keeps marginals and conditionals exact."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .angles import Angles
from .bounded import Bounded
from .conditional import ConditionallyAffine
from .mixing import Affine, Mixing, Scaled, Triangular, tame
from .regression import KNOTS, expand, hinge

__all__ = ["reduced"]


def reduced(mixing: Mixing, kept: Tensor, t: Tensor | None = None) -> Mixing | None:
    """The map of the columns ``kept`` to their coordinates, or None where it needs a column that is neither kept nor known.

    Args:
        mixing: axis-aligned, triangular (between walls or not), conditionally affine, or of angles; an affine one has no such part.
        kept: numbers of working columns, ascending, shape (m',).
        t: coordinates, shape (m,), whose other columns are known; None where nothing is.

    >>> order = torch.arange(2)
    >>> nothing, zero = torch.zeros(2, 2), torch.zeros(2)
    >>> slope = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    >>> mixing = Triangular(order, zero, torch.ones(2), zero, slope, zero, nothing, torch.zeros(0, 3).long(), torch.zeros(0))
    >>> reduced(mixing, torch.tensor([0])).order, reduced(mixing, torch.tensor([1]))
    (tensor([0]), None)
    >>> reduced(mixing, torch.tensor([1]), torch.tensor([2.0, 0.0])).intercept
    tensor([6.])
    """
    if isinstance(mixing, Scaled):
        coordinate = mixing.order[kept]
        return Scaled(mixing.loc[coordinate.sort().values], mixing.scale[kept], coordinate.argsort().argsort())
    if isinstance(mixing, Angles):
        return _angles(mixing, kept, t)
    if isinstance(mixing, Bounded):
        if not _closed(mixing.inner, kept, known=t is not None):
            return None
        inner = _triangular(mixing.inner, kept, None if t is None else mixing.places(t))
        return Bounded(inner, mixing.ends[mixing.order[kept].sort().values])
    if isinstance(mixing, ConditionallyAffine):
        return _marginal(mixing, kept) if t is None else _conditional(mixing, kept, t)
    if not isinstance(mixing, Triangular) or not _closed(mixing, kept, known=t is not None):
        return None
    return _triangular(mixing, kept, t)


def _angles(mixing: Angles, kept: Tensor, t: Tensor | None) -> Mixing | None:
    """The angles kept, where they follow none that is integrated out, and none that is known follows them."""
    coordinate = mixing.order[kept]
    stays = torch.isin(mixing.circles, coordinate)
    rows, columns = (stays, ~stays) if t is None else (~stays, stays)
    if bool(mixing.follows[rows][:, columns].any()) or not _closed(mixing.inner, kept, known=t is not None):
        return None
    inner = _triangular(mixing.inner, kept, t)
    if not bool(stays.any()):
        return inner
    number, coefficients = len(stays), mixing.coefficients.clone()
    if t is not None:
        coefficients[:, :, 0] += torch.stack(mixing.pull_of(t[mixing.circles], ~stays))
    kept_ones = stays.nonzero()[:, 0]
    places = torch.cat([torch.zeros(1).long(), 1 + kept_ones, 1 + number + kept_ones])
    rank = torch.full((len(mixing.order),), -1)
    rank[coordinate.sort().values] = torch.arange(len(kept))
    return Angles(
        inner,
        rank[mixing.circles[stays]],
        mixing.lower[stays],
        mixing.length[stays],
        coefficients[:, stays][:, :, places],
    )


def _marginal(mixing: ConditionallyAffine, kept: Tensor) -> Mixing | None:
    """Leading columns alone; or all of them with rows that are tied to rows kept only."""
    lead = len(mixing.loc)
    order = mixing.order[kept].argsort().argsort()
    if bool((kept < lead).all()):
        return Scaled(mixing.loc[kept][order.argsort()], mixing.scale[kept], order)
    rows = kept[lead:] - lead
    if len(kept) < lead or bool((kept[:lead] != torch.arange(lead)).any()) or not _rows_closed(mixing, rows):
        return None
    return _with_rows(replace(mixing, order=order), rows)


def _conditional(mixing: ConditionallyAffine, kept: Tensor, t: Tensor) -> Mixing | None:
    """Given leading coordinates, and others that are tied to no row kept; these only where all the leading ones are known."""
    lead, size = len(mixing.loc), mixing.mean.shape[1]
    rows = kept[kept >= lead] - lead
    known_rows = torch.tensor([i for i in range(size) if i not in set(rows.tolist())], dtype=torch.long)
    free = kept[kept < lead]
    if (len(known_rows) and len(free)) or not _rows_closed(mixing, known_rows):
        return None
    ordered = t[mixing.order]
    order = mixing.order[kept].argsort().argsort()
    given = mixing.given((ordered[:lead] - mixing.loc) / mixing.scale, free)
    if len(free):
        return replace(given, order=order)
    # x = μ + K⁻¹ s, with the rows known as they are.
    mean, ties = given.mean[0], torch.zeros(size, size, dtype=t.dtype)
    ties[given.index[:, 0], given.index[:, 1]] = given.entries[0]
    centred = torch.zeros(size, dtype=t.dtype)
    centred[known_rows] = ordered[lead:][known_rows] - mean[known_rows]
    solve = torch.linalg.inv(torch.eye(len(rows), dtype=t.dtype) - ties[rows][:, rows])
    loc, matrix = mean[rows] + solve @ (ties @ centred)[rows], solve * torch.exp(-given.log_diagonal[0, rows])
    place = order.argsort()
    return Affine(loc[place], matrix[place])


def _rows_closed(mixing: ConditionallyAffine, rows: Tensor) -> bool:
    """Whether rows are tied to each other only."""
    inside = torch.zeros(mixing.mean.shape[1], dtype=torch.bool)
    inside[rows] = True
    return not bool((inside[mixing.index[:, 0]] & ~inside[mixing.index[:, 1]]).any())


def _with_rows(mixing: ConditionallyAffine, rows: Tensor) -> ConditionallyAffine:
    """Those rows alone."""
    rank = torch.full((mixing.mean.shape[1],), -1)
    rank[rows] = torch.arange(len(rows))
    index = rank[mixing.index]
    mine = (index >= 0).all(1)
    return replace(
        mixing, mean=mixing.mean[:, rows], log_diagonal=mixing.log_diagonal[:, rows], index=index[mine],
        entries=mixing.entries[:, mine],
    )  # fmt: skip


def _closed(mixing: Triangular, kept: Tensor, *, known: bool) -> bool:
    """Whether the rows kept need kept columns only; or, of known columns, whether those need none of the rows kept."""
    dim = len(mixing.order)
    inside = torch.zeros(dim, dtype=torch.bool)
    inside[kept] = True
    needs = (mixing.slope != 0) | (mixing.log_slope != 0)
    for i, j, k in mixing.pairs.tolist():
        for column in (_column(j, dim), _column(k, dim)):
            if column is not None:
                needs[i, column] = True
    for i, j, _ in mixing.hinges.tolist():
        needs[i, j] = True
    rows, columns = (~inside, inside) if known else (inside, ~inside)
    return not bool(needs[rows][:, columns].any())


def _triangular(mixing: Triangular, kept: Tensor, t: Tensor | None) -> Triangular:
    dim, size = len(mixing.order), len(kept)
    rank = torch.full((dim,), -1)
    rank[kept] = torch.arange(size)
    gone = rank < 0
    z = torch.zeros_like(mixing.loc) if t is None else (t[mixing.order] - mixing.loc) / mixing.scale
    z = torch.where(gone, z, 0.0)
    intercept = mixing.intercept + mixing.slope @ z
    log_intercept = mixing.log_intercept + mixing.log_slope @ tame(z)
    pairs: list[list[int]] = []
    weights: list[float] = []
    for (i, *both), weight in zip(mixing.pairs.tolist(), mixing.weights.tolist(), strict=True):
        left = [e for e in both if (c := _column(e, dim)) is not None and not gone[c]]
        settled = [e for e in both if e not in left]
        value = weight * float(expand(tame(z), torch.tensor(settled, dtype=torch.long)).prod())
        if not left:
            intercept[i] += value
        else:
            pairs.append([int(rank[i]), *_renumbered(left, rank, dim, size)])
            weights.append(value)
    hinges: list[list[int]] = []
    hinge_weights: list[float] = []
    for (i, j, c), weight in zip(mixing.hinges.tolist(), mixing.hinge_weights.tolist(), strict=True):
        if gone[j]:
            log_intercept[i] += weight * hinge(tame(z[j]) - KNOTS[c])
        else:
            hinges.append([int(rank[i]), int(rank[j]), c])
            hinge_weights.append(weight)
    mine = [n for n, (i, *_) in enumerate(pairs) if i >= 0]
    bends = [n for n, (i, *_) in enumerate(hinges) if i >= 0]
    return Triangular(
        mixing.order[kept].argsort().argsort(), mixing.loc[kept], mixing.scale[kept], intercept[kept],
        mixing.slope[kept][:, kept], log_intercept[kept], mixing.log_slope[kept][:, kept],
        torch.tensor([pairs[n] for n in mine], dtype=torch.long).view(-1, 3), z.new_tensor([weights[n] for n in mine]),
        torch.tensor([hinges[n] for n in bends], dtype=torch.long).view(-1, 3),
        z.new_tensor([hinge_weights[n] for n in bends]),
    )  # fmt: skip


def _column(index: int, dim: int) -> int | None:
    """The column that number ``index`` of :func:`.regression.expand` is made of; None for the constant."""
    if index < dim:
        return index
    return None if index == dim else (index - dim - 1) // len(KNOTS)


def _renumbered(indices: list[int], rank: Tensor, dim: int, size: int) -> list[int]:
    """Two numbers among fewer columns, filled up with the constant."""
    made = []
    for index in indices:
        column = _column(index, dim)
        assert column is not None
        bent = (index - dim - 1) % len(KNOTS)
        made.append(int(rank[column]) if index < dim else size + 1 + len(KNOTS) * int(rank[column]) + bent)
    return made + [size] * (2 - len(made))
