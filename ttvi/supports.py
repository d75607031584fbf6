"""Supports: where each coordinate of a density lives, and the working coordinates that a fit uses in its place.

A user's point x has ``dim`` entries; its working coordinates y have ``num_coordinates`` of a :data:`Kind` each:

| constraint | working coordinate |
|---|---|
| real | the line, y = x |
| positive, greater_than, less_than (half-lines, open or closed) | the line, y = log of the distance to the bound |
| interval, unit_interval, half_open_interval | the interval itself, y = x |
| circular | the circle itself, y = x wrapped into [lower, upper) |
| categorical, integer_interval, boolean | the index 0 … k - 1 of the value |
| simplex of k entries | k - 1 lines (stick breaking) |
| corr_cholesky of size c (c·c entries of x, row by row) | c(c-1)/2 lines |
| anything else that ``torch.distributions.biject_to`` knows | lines |
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint, interval, positive, real, unit_interval

from .constraints import categorical, circular, constraint_at, constraint_from_spec, constraint_spec
from .coordinates import Circle, Finite, Interval, Kind, Line, Piece, Scalars, make_piece
from .tt.arguments import check_columns

__all__ = [
    "Block",
    "Circle",
    "Finite",
    "Interval",
    "Kind",
    "Line",
    "Support",
    "categorical",
    "circular",
    "interval",
    "positive",
    "real",
    "unit_interval",
]


@dataclass(frozen=True)
class Block:
    """One entry of what the user passed as ``support``.

    Attributes:
        name: its name.
        constraint: the constraint of every entry, or of all entries together (simplex, corr_cholesky).
        size: as given next to the constraint; ``None`` for a scalar.
        x_slice: where it lies in the user's vector.
        y_slice: where it lies among the working coordinates.
    """

    name: str
    constraint: Constraint
    size: int | None
    x_slice: slice
    y_slice: slice


class Support:
    """The support of a vector x, and the map between x and its working coordinates y; made by :meth:`parse`.

    Attributes:
        blocks: the entries of the user's ``support``.
        dim: number of entries of x.
        num_coordinates: number of working coordinates.
        kinds: the kind of each working coordinate.
        names: one name per entry of x.
        y_names: one name per working coordinate.

    >>> support = Support.parse({"tau": positive, "theta": (real, 2), "k": categorical(3)})
    >>> support.names
    ('tau', 'theta[0]', 'theta[1]', 'k')
    >>> x, log_det = support.to_x(torch.tensor([[0.5, -1.0, 2.0, 1.0]]))
    >>> x, log_det
    (tensor([[ 1.6487, -1.0000,  2.0000,  1.0000]]), tensor([0.5000]))
    >>> support.to_y(x)
    tensor([[ 0.5000, -1.0000,  2.0000,  1.0000]])
    """

    def __init__(self, blocks: Sequence[tuple[str, Constraint, int | None]], names: Sequence[str], caller: str) -> None:
        made: list[Block] = []
        kinds: list[Kind] = []
        y_names: list[str] = []
        pieces: list[Piece] = []
        entries = 0
        for name, constraint, size in blocks:
            piece, found = make_piece(constraint, size, name, caller)
            x_slice = slice(entries, entries + piece.x_size)
            made.append(Block(name, constraint, size, x_slice, slice(len(kinds), len(kinds) + len(found))))
            scalar = isinstance(piece, Scalars)
            y_names += names[x_slice] if scalar else [f"{name}:{i}" for i in range(len(found))]
            kinds += found
            entries = x_slice.stop
            pieces.append(piece)
        self.blocks = tuple(made)
        self.dim, self.num_coordinates = entries, len(kinds)
        self.kinds, self.names, self.y_names = tuple(kinds), tuple(names), tuple(y_names)
        # one vectorised step for a run of scalars
        runs = [list(run) for _, run in itertools.groupby(pieces, lambda piece: isinstance(piece, Scalars))]
        self._pieces: list[Piece] = []
        for run in runs:
            scalars = [piece for piece in run if isinstance(piece, Scalars)]
            self._pieces += [Scalars.joined(scalars)] if scalars else run

    @classmethod
    def parse(
        cls, support: Any = None, *, dim: int | None = None, names: Sequence[str] | None = None, caller: str = "fit"
    ) -> Support:
        """Read what a user passes as ``support=``.

        Args:
            support: ``None`` (all real); one constraint for every coordinate; a list with a constraint, or a pair
                (constraint, size), per entry; or a dict of those by name. The density of a simplex of k entries is with
                respect to the Lebesgue measure of its first k - 1 entries; that of a corr_cholesky of size c with
                respect to its strictly lower entries.
            dim: number of entries of x; needed where ``support`` does not say it.
            names: one per entry of x, or one per entry of ``support``.
            caller: the public name for error messages.

        Returns:
            The support.

        Raises:
            TypeError: an entry is not a constraint.
            ValueError: sizes, bounds or names contradict each other.
        """
        if isinstance(support, cls):
            if (dim is not None and dim != support.dim) or (names is not None and tuple(names) != support.names):
                raise ValueError(
                    f"{caller}: expected dim and names of the given Support ({support.dim}); got dim={dim}. Leave them out."
                )
            return support
        dim = None if dim is None else _positive(dim, "dim", caller)
        entries, labels = _entries(support, dim, caller)
        sizes = [_x_size(constraint, size) for constraint, size in entries]
        if dim is not None and sum(sizes) != dim:
            raise ValueError(
                f"{caller}: expected a support of dim={dim} entries; got {sum(sizes)}. Leave dim out, or correct the support."
            )
        block_names, all_names = _names(names, labels, entries, sizes, caller)
        return cls([(n, c, s) for n, (c, s) in zip(block_names, entries)], all_names, caller)

    def to_x(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The user's point and log |dx/dy|, differentiable.

        Args:
            y: working coordinates, shape ``(..., num_coordinates)``.

        Returns:
            x of shape ``(..., dim)``; the log-determinant of shape ``(...)``, in which intervals, circles and finite
            sets do not take part.
        """
        y = check_columns(y, self.num_coordinates, "to_x")
        parts, total, at = [], y.new_zeros(y.shape[:-1]), 0
        for piece in self._pieces:
            x, log_det = piece.to_x(y[..., at : at + piece.y_size])
            parts.append(x)
            total = total if log_det is None else total + log_det
            at += piece.y_size
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1), total

    def to_y(self, x: Tensor) -> Tensor:
        """Working coordinates of points, shape ``(..., dim)`` to ``(..., num_coordinates)``; NaN outside a half-line.

        Circles are wrapped into [lower, upper); a value of a finite set becomes its index.
        """
        x = check_columns(x, self.dim, "to_y")
        parts, at = [], 0
        for piece in self._pieces:
            parts.append(piece.to_y(x[..., at : at + piece.x_size]))
            at += piece.x_size
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def wrap(self, x: Tensor) -> Tensor:
        """Points with their angles wrapped into [lower, upper); everything else as it is."""
        x = check_columns(x, self.dim, "wrap")
        parts, at = [], 0
        for piece in self._pieces:
            part = x[..., at : at + piece.x_size]
            parts.append(piece.wrap(part) if isinstance(piece, Scalars) else part)
            at += piece.x_size
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def contains(self, x: Tensor) -> Tensor:
        """Which points lie in the support: shape ``(..., dim)`` to a mask of shape ``(...)``."""
        x = check_columns(x, self.dim, "contains")
        inside, at = torch.isfinite(x).all(-1), 0
        for piece in self._pieces:
            inside = inside & piece.contains(x[..., at : at + piece.x_size])
            at += piece.x_size
        return inside

    def select(self, positions: Sequence[int], *, caller: str = "marginal") -> tuple[Support, list[int]]:
        """The support of some entries of x, and the positions of their working coordinates.

        Args:
            positions: entries of x. Those of a simplex or of a matrix go together, in order.
            caller: the public name for error messages.

        Raises:
            ValueError: a simplex or a matrix would be torn apart.
        """
        chosen: list[tuple[str, Constraint, int | None]] = []
        names, at = [self.names[k] for k in positions], 0
        y_positions: list[int] = []
        while at < len(positions):
            block = next(b for b in self.blocks if b.x_slice.start <= positions[at] < b.x_slice.stop)
            whole = list(range(block.x_slice.start, block.x_slice.stop))
            if list(positions[at : at + len(whole)]) == whole:
                chosen.append((block.name, block.constraint, block.size))
                y_positions += range(block.y_slice.start, block.y_slice.stop)
                at += len(whole)
                continue
            if block.constraint.event_dim:
                raise ValueError(
                    f"{caller}: expected all entries of `{block.name}` together, in order; got {list(positions)}. "
                    "Its entries have no density of their own."
                )
            inner = positions[at] - block.x_slice.start
            chosen.append((names[at], constraint_at(block.constraint, inner), None))
            y_positions.append(block.y_slice.start + inner)
            at += 1
        return Support(chosen, names, caller), y_positions

    def to_spec(self) -> dict[str, Any]:
        """A description that JSON can hold.

        Raises:
            TypeError: a constraint is not one of those in the table above.
        """
        blocks = [{"name": b.name, "size": b.size, "constraint": constraint_spec(b.constraint)} for b in self.blocks]
        return {"blocks": blocks, "names": list(self.names)}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Support:
        """The support that :meth:`to_spec` described."""
        blocks = [(b["name"], constraint_from_spec(b["constraint"]), b["size"]) for b in spec["blocks"]]
        return cls(blocks, spec["names"], "load")

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{b.name}: {b.constraint}" + ("" if b.size is None else f" × {b.size}") for b in self.blocks[:6]
        )
        return f"Support({shown}{', …' if len(self.blocks) > 6 else ''})"


def _positive(value: Any, what: str, caller: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or int(value) != value or value < 1:
        raise ValueError(f"{caller}: expected {what} to be a positive integer; got {value!r}. Pass a whole number.")
    return int(value)


def _entries(support: Any, dim: int | None, caller: str) -> tuple[list[tuple[Constraint, int | None]], list[Any]]:
    """Pairs (constraint, size), and a label each: the name in a dict, ``None`` elsewhere."""
    if isinstance(support, tuple) and len(support) == 2 and isinstance(support[1], int):
        return [_entry(support, "x", caller)], ["x"]
    if isinstance(support, Mapping):
        labels = list(support)
        if not all(isinstance(name, str) for name in labels):
            raise TypeError(f"{caller}: expected names as keys of `support`; got {labels!r}. Use strings.")
        entries = [_entry(value, name, caller) for name, value in support.items()]
    elif isinstance(support, Sequence) and not isinstance(support, str):
        entries = [_entry(value, f"support[{i}]", caller) for i, value in enumerate(support)]
        labels = [None] * len(entries)
    elif support is None or isinstance(support, Constraint):
        if dim is None:
            raise ValueError(
                f"{caller}: expected dim= or a support with one entry per coordinate; got neither. Pass dim=10, say."
            )
        constraint = real if support is None else _plain(support)
        if constraint.event_dim == 2:
            side = math.isqrt(dim)
            if side * side != dim:
                raise ValueError(f"{caller}: expected dim= to be a square for {constraint}; got {dim}. Pass c*c.")
            return [(constraint, side)], ["x"]
        return [(constraint, dim)], ["x"]
    else:
        raise TypeError(
            f"{caller}: expected `support` to be a constraint, a list or a dict; got {type(support).__name__}. "
            "E.g. [ttvi.real, ttvi.positive]."
        )
    if not entries:
        raise ValueError(f"{caller}: expected at least one coordinate in `support`; got none. Name its coordinates.")
    return entries, labels


def _entry(value: Any, name: str, caller: str) -> tuple[Constraint, int | None]:
    """One entry as the pair (constraint, size)."""
    size = None
    if isinstance(value, tuple) and len(value) == 2:
        value, size = value
        size = _positive(size, f"the size of `{name}`", caller)
    if isinstance(value, type) and issubclass(value, Constraint):
        raise TypeError(f"{caller}: expected a constraint for `{name}`; got the class {value.__name__}. Call it.")
    if not isinstance(value, Constraint):
        raise TypeError(
            f"{caller}: expected a constraint, or (constraint, size), for `{name}`; got {value!r}. E.g. ttvi.interval(0, 1)."
        )
    if isinstance(value, type(constraints.dependent)):
        raise ValueError(
            f"{caller}: expected a support that does not depend on other values for `{name}`; got {value}. Name its bounds."
        )
    if size is None and value.event_dim > 0:
        raise ValueError(
            f"{caller}: expected a size next to {value} for `{name}`; got none. Pass a pair (constraint, size)."
        )
    value = _plain(value)
    if size == 1 and value.event_dim > 0:
        raise ValueError(
            f"{caller}: expected a size of at least 2 for {value} in `{name}`; got 1. Leave the block out."
        )
    return value, size


def _plain(constraint: Constraint) -> Constraint:
    """A vector of independent entries (``real_vector``) as the constraint of one entry."""
    if isinstance(constraint, constraints.independent) and constraint.event_dim == 1:
        return constraint.base_constraint
    return constraint


def _x_size(constraint: Constraint, size: int | None) -> int:
    """Number of entries of x in a block."""
    count = 1 if size is None else size
    return count * count if constraint.event_dim == 2 else count


def _names(
    names: Sequence[str] | None,
    labels: Sequence[str | None],
    entries: Sequence[tuple[Constraint, int | None]],
    sizes: Sequence[int],
    caller: str,
) -> tuple[list[str], list[str]]:
    """A name per block and a name per entry of x."""
    total, given = sum(sizes), None if names is None else [str(name) for name in names]
    per_block = given is not None and len(given) == len(entries) and None in labels
    if isinstance(names, str) or (given is not None and len(given) != total and not per_block):
        raise ValueError(f"{caller}: expected {total} names; got {names!r}. Give one name per coordinate.")
    if given is not None and per_block:
        labels = given
    block_names: list[str] = []
    all_names: list[str] = []
    for label, (constraint, size), count in zip(labels, entries, sizes):
        at = len(all_names)
        if label is None:
            all_names += [f"x[{at + j}]" for j in range(count)]
        elif size is None:
            all_names.append(label)
        elif constraint.event_dim == 2:
            all_names += [f"{label}[{j // size},{j % size}]" for j in range(count)]
        else:
            all_names += [f"{label}[{j}]" for j in range(count)]
        block_names.append(label if label is not None else all_names[at] if count == 1 else f"x[{at}:{at + count}]")
    if given is not None and len(given) == total:
        all_names = given
        starts = itertools.accumulate(sizes, initial=0)
        block_names = [given[at] if n == 1 else b for at, b, n in zip(starts, block_names, sizes)]
    twice = sorted({name for name in all_names if all_names.count(name) > 1}) if len(set(all_names)) < total else []
    if twice:
        raise ValueError(f"{caller}: expected distinct names; got {twice} more than once. Rename one of them.")
    return block_names, all_names
