"""A functional tensor train as a surrogate: call it, differentiate it, integrate it, calculate with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import SupportError
from ..typing import BatchFunction, Dims
from .algebra import evaluate
from .arguments import check_columns, check_positions, seeded
from .arithmetic import Arithmetic
from .basis import Basis, Hermite, from_spec
from .canonical import from_dense
from .cross import CrossOptions
from .interop import dense_coefficients, to_tntorch, train_from_tntorch
from .measure import Measure, frames, moments
from .optimum import maximize
from .rebase import absorb, map_modes, slopes_of
from .regression import RegressionInfo, check_data, fit_data
from .report import CrossInfo, SweepRecord
from .storage import load_tensors, save_tensors
from .surrogate import fit_function
from .train import TensorTrain

__all__ = ["TTFunction"]

BLOCK = 1 << 22  # entries of the largest temporary of an evaluation


class TTFunction(Arithmetic):
    r"""The function :math:`g(x) = G_1(x_1) \cdots G_d(x_d)`, of any sign, with :math:`G_k(x) = \sum_i \varphi_i(x)\, C_k[:, i, :]`.

    Evaluation costs :math:`O(d\,n\,r^2)` per point; integrals, means and variances as little, and without sampling. Outside
    the support (periodic coordinates have none) the value is NaN. An immutable value: operations return new functions.

    Args:
        train: unbatched coefficients in the bases.
        bases: one orthonormal basis per mode.
        info: the report of the fit that made the train.

    Raises:
        ValueError: numbers or sizes of cores and bases differ, or the train is batched.

    References:
        Bigoni, Engsig-Karup, Marzouk: Spectral tensor-train decomposition (2016).
        Gorodetsky, Karaman, Marzouk: A continuous analogue of the tensor-train decomposition (2019).

    >>> from ttvi.tt import Legendre
    >>> f = TTFunction.fit(lambda x: torch.sin(x.sum(-1)), [Legendre(0.0, 1.0, size=12)] * 4, tol=1e-10, seed=0)
    >>> f.ranks
    (1, 2, 2, 2, 1)
    >>> f(torch.zeros(4, dtype=torch.float64)).abs() < 1e-9
    tensor(True)
    """

    def __init__(
        self, train: TensorTrain, bases: Sequence[Basis], *, info: CrossInfo | RegressionInfo | None = None
    ) -> None:
        bases = tuple(bases)
        sizes = tuple(basis._require_size() for basis in bases)
        if sizes != train.mode_sizes or train.batch_shape:
            raise ValueError(
                f"TTFunction: expected an unbatched train and one basis per mode, of its size {train.mode_sizes}; got sizes "
                f"{sizes} and batch {tuple(train.batch_shape)}. Pass the bases that the coefficients belong to."
            )
        self.train, self.bases, self.info = train, bases, info

    # -- construction ----------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        function: BatchFunction,
        bases: Sequence[Basis],
        *,
        tol: float = 1e-6,
        max_rank: int = CrossOptions.max_rank,
        budget: int | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
        init_points: Tensor | None = None,
        max_batch: int | None = None,
        callback: Callable[[SweepRecord], None] | None = None,
        options: CrossOptions | None = None,
    ) -> TTFunction:
        r"""Approximate a function by cross approximation: about :math:`d\,n\,r^2` evaluations per half-sweep, in ``d`` batches.

        ``f.info.error`` estimates :math:`\lVert f - g \rVert / \lVert g \rVert` in :math:`L^2` from fresh points between the
        nodes, half uniform (from the references) and half drawn from :math:`g^2`. Points are evaluated once.

        Args:
            function: ``(batch, d)`` to ``(batch,)``, real and finite.
            bases: one per coordinate; a basis without size has it chosen from the decay of the coefficients on slices.
            tol, max_rank, budget: relative :math:`L^2` error aimed at, cap on every rank, the most evaluations to spend.
            generator, seed: source of randomness; ``seed`` makes a generator.
            dtype, device: where and how to compute.
            init_points: points known to matter, shape ``(m, d)``.
            max_batch: the most points in one call of ``function``.
            callback: called with a :class:`SweepRecord` after every half-sweep.
            options: all knobs, for experts; ``tol`` and ``max_rank`` override theirs.

        Returns:
            The surrogate; ``.info`` is the :class:`CrossInfo`.

        Raises:
            TypeError, ValueError: the function returns something else than ``(batch,)`` floating-point values.
            EvaluationError: the function raised, or returned NaN or an infinity; ``.info`` keeps what was paid for.

        Warns:
            ConvergenceWarning: the tolerance was not reached.
        """
        train, sized, info = fit_function(
            function,
            bases,
            tol=tol,
            max_rank=max_rank,
            budget=budget,
            generator=generator,
            seed=seed,
            dtype=dtype,
            device=device,
            init_points=init_points,
            max_batch=max_batch,
            callback=callback,
            options=options,
        )
        return cls(train, sized, info=info)

    @classmethod
    def from_values(
        cls, values: Tensor, bases: Sequence[Basis], *, tol: float = 1e-12, max_rank: int | None = None
    ) -> TTFunction:
        """TT-SVD of the values at all nodes; relative :math:`L^2` error at most ``tol`` there.

        Args:
            values: values at the nodes, shape ``(n_1, ..., n_d)``.
            bases: one per dimension, of its size.
            tol, max_rank: truncation.

        Raises:
            ValueError: shapes differ, or a value is not finite.
        """
        sizes = tuple(basis._require_size() for basis in bases)
        if not isinstance(values, Tensor) or tuple(values.shape) != sizes:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"from_values: expected a tensor of shape {sizes}; got {got}. Evaluate at all nodes.")
        return cls(from_dense(dense_coefficients(values, bases), tol=tol, max_rank=max_rank).train, bases)

    @classmethod
    def from_data(
        cls,
        x: Tensor,
        y: Tensor,
        bases: Sequence[Basis],
        *,
        max_rank: int = 10,
        tol: float = 1e-6,
        regularization: float | None = None,
        validation: float = 0.1,
        generator: torch.Generator | None = None,
        seed: int | None = None,
    ) -> TTFunction:
        """Regression on scattered data by regularised alternating least squares; rank and penalty chosen on held-out points.

        Args:
            x: points in the support, shape ``(m, d)``; its dtype and device are those of the result.
            y: values, shape ``(m,)``.
            bases: one per coordinate; those without size get 12 functions.
            max_rank: cap on every rank.
            tol: stop when the held-out error, relative to the values' root mean square, is as small.
            regularization: weight of the penalty; chosen along a path when omitted.
            validation: fraction of the points held out.
            generator, seed: source of randomness; ``seed`` makes a generator.

        Returns:
            The regression function; ``.info`` is a :class:`RegressionInfo`, ``.info.error`` the held-out error.

        Raises:
            ValueError: shapes differ, values are not finite, or points lie outside the support (a SupportError).

        Warns:
            ConvergenceWarning: the held-out error was still falling at ``max_rank``.
        """
        x, y, generator = check_data(x, y, bases, max_rank, tol, regularization, validation, generator, seed)
        train, sized, info = fit_data(
            x,
            y,
            bases,
            max_rank=max_rank,
            tol=tol,
            regularization=regularization,
            validation=validation,
            generator=generator,
        )
        return cls(train, sized, info=info)

    @classmethod
    def from_tntorch(cls, tensor: Any, bases: Sequence[Basis]) -> TTFunction:
        """The function with the values of a ``tntorch.Tensor`` (TT cores) at the nodes.

        Args:
            tensor: a tntorch tensor with TT cores; Tucker factors are absorbed.
            bases: one per dimension, of its size.

        Raises:
            TypeError: it is no tntorch tensor, or has CP cores.
            ValueError: numbers or sizes of dimensions and bases differ.
        """
        return cls(train_from_tntorch(tensor, bases, "from_tntorch"), bases)

    def to_tntorch(self, points: int | Sequence[Tensor] | None = None) -> Any:
        """A ``tntorch.Tensor`` of values on a grid.

        Args:
            points: ``None`` for the nodes, whose weights are not uniform: give ``marginals=f.node_weights()`` to tntorch's
                Sobol indices, which are then exact. An integer resamples at that many equally likely points per coordinate
                (cell midpoints on an interval), for tools that know uniform marginals only: error ``O(points**-2)``.
                Or one tensor of points per coordinate. tntorch makes tensors of torch's default dtype where it is given no
                marginals: convert with :meth:`to` if that is not the dtype of the function.
        """
        if points is None:
            grid = [basis.nodes() for basis in self.bases]
        elif isinstance(points, int):
            u = (torch.arange(points, dtype=torch.float64) + 0.5) / points
            grid = [_equally_likely(basis, u) for basis in self.bases]
        else:
            grid = [torch.as_tensor(x) for x in points]
            if len(grid) != self.dim or any(x.dim() != 1 for x in grid):
                raise ValueError(
                    f"to_tntorch: expected {self.dim} one-dimensional tensors of points; got {len(grid)}. One per coordinate."
                )
        matrices = [b(x.to(torch.float64)).to(self.device, self.dtype) for b, x in zip(self.bases, grid)]
        return to_tntorch(map_modes(self.train, matrices))

    def node_weights(self) -> list[Tensor]:
        """Quadrature weights of the nodes of every coordinate, each normalised to one."""
        weights = [b.weights(dtype=self.dtype, device=self.device) for b in self.bases]
        return [w / w.sum() for w in weights]

    # -- description -----------------------------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.train.dim

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ``d + 1`` ranks, the outer ones included."""
        return self.train.ranks

    @property
    def dtype(self) -> torch.dtype:
        """Element type."""
        return self.train.dtype

    @property
    def device(self) -> torch.device:
        """Device."""
        return self.train.device

    def _new(self, train: TensorTrain, bases: Sequence[Basis]) -> TTFunction:
        return TTFunction(train, bases)

    def __repr__(self) -> str:
        return f"TTFunction(dim={self.dim}, max_rank={max(self.ranks)}, dtype={self.dtype})"

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> TTFunction:
        """The same function in another dtype or on another device."""
        return TTFunction(self.train.to(dtype=dtype, device=device), self.bases, info=self.info)

    def save(self, path: Any) -> None:
        """Write train and bases (not the report) to one safetensors file."""
        tensors = {f"cores.{k}": core for k, core in enumerate(self.train.cores)}
        tensors["log_scale"] = self.train.log_scale
        save_tensors(path, tensors, {"bases": [basis.spec() for basis in self.bases]}, "TTFunction")

    @classmethod
    def load(cls, path: Any) -> TTFunction:
        """Read what :meth:`save` wrote."""
        tensors, header = load_tensors(path, "TTFunction")
        bases = [from_spec(spec) for spec in header["bases"]]
        return cls(TensorTrain([tensors[f"cores.{k}"] for k in range(len(bases))], tensors["log_scale"]), bases)

    # -- values ----------------------------------------------------------------------------------------------------

    def __call__(self, x: Tensor) -> Tensor:
        """Values, shape ``(..., d)`` to ``(...)``; differentiable in ``x`` and in the cores; NaN outside the support."""
        rows, shape = self._rows(x, "TTFunction")
        parts = [self._values(part) for part in rows.split(self._block)]
        return torch.cat(parts).view(shape)

    def _values(self, x: Tensor) -> Tensor:
        mantissa, log = evaluate(self.train, [basis(x[:, k]) for k, basis in enumerate(self.bases)])
        return torch.where(self._inside(x), mantissa * log.exp(), torch.nan)

    def gradient(self, x: Tensor) -> Tensor:
        """All partial derivatives, shape ``(..., d)`` to ``(..., d)``: one pass from either end, whatever ``d``.

        Differentiable in turn; zero along finite coordinates, NaN outside the support.
        """
        rows, _ = self._rows(x, "gradient")
        return torch.cat([self._gradient(part) for part in rows.split(self._block)]).view(x.shape)

    def _gradient(self, x: Tensor) -> Tensor:
        values = [basis(x[:, k]) for k, basis in enumerate(self.bases)]
        slopes = [basis.derivative(x[:, k]) for k, basis in enumerate(self.bases)]
        return torch.where(self._inside(x)[:, None], slopes_of(self.train, values, slopes), torch.nan)

    @property
    def _block(self) -> int:
        return max(64, BLOCK // max(core.shape[1] * max(core.shape[0], core.shape[2]) for core in self.train.cores))

    def _inside(self, x: Tensor) -> Tensor:
        checks = [b.support.check(x[:, k]) for k, b in enumerate(self.bases) if not b.periodic]
        return torch.stack(checks).all(0) if checks else torch.ones_like(x[:, 0], dtype=torch.bool)

    def _rows(self, x: Tensor, caller: str) -> tuple[Tensor, torch.Size]:
        x = check_columns(x, self.dim, caller)
        return x.to(dtype=self.dtype, device=self.device).reshape(-1, self.dim), x.shape[:-1]

    # -- integrals and moments -------------------------------------------------------------------------------------

    def integral(self, dims: Dims | None = None) -> Any:
        r""":math:`\int g\,dx` over all coordinates (a 0-d tensor), or over ``dims``: a function of the others.

        Raises:
            IndexError: a position does not exist.
            ValueError: one is named twice.
        """
        chosen = range(self.dim) if dims is None else check_positions(dims, self.dim, "integral")
        vectors = {k: self.bases[k].integrals(dtype=self.dtype, device=self.device) for k in chosen}
        return self._absorbed(vectors)

    def partial(self, values: Mapping[int, float | Tensor]) -> TTFunction:
        """The function of the remaining coordinates, in their order, with some held at given values.

        Raises:
            IndexError: a position does not exist.
            ValueError: no coordinate remains, or one is named twice.
            SupportError: a value lies outside the support.
        """
        vectors = {}
        for k, value in zip(check_positions(list(values), self.dim, "partial"), values.values(), strict=True):
            point = torch.as_tensor(value, dtype=self.dtype, device=self.device)
            if point.dim() or not (self.bases[k].periodic or bool(self.bases[k].support.check(point))):
                raise SupportError(
                    f"partial: expected a number in the support of {self.bases[k]!r} for coordinate {k}; got {value}."
                )
            vectors[k] = self.bases[k](point)
        if len(vectors) == self.dim:
            raise ValueError("partial: expected a coordinate to remain; got values for all. Call the function instead.")
        return self._absorbed(vectors)

    def _absorbed(self, vectors: dict[int, Tensor]) -> Any:
        train, value = absorb(self.train, vectors)
        if train is None:
            return value
        return TTFunction(train, [basis for k, basis in enumerate(self.bases) if k not in vectors])

    def mean(self, measure: Sequence[Measure] | None = None) -> Tensor:
        r"""The mean :math:`\int g\,d\mu` under a product measure, a 0-d tensor.

        Args:
            measure: one per coordinate: a univariate ``torch.distributions`` object, a pair (points, weights), or ``None``
                for the default, which is uniform on intervals, circles and finite sets, and ``Normal(loc, scale)`` on the
                line of a :class:`Hermite` basis.

        Raises:
            SupportError: a distribution has mass outside a bounded support.
        """
        return self._moments(measure, "mean")[0]

    def variance(self, measure: Sequence[Measure] | None = None) -> Tensor:
        """The variance under a product measure (as for :meth:`mean`): a squared norm, so nothing cancels."""
        return self._moments(measure, "variance")[1]

    def _moments(self, measure: Sequence[Measure] | None, caller: str) -> tuple[Tensor, Tensor]:
        return moments(self.train, frames(self.bases, measure, self.dtype, self.device, caller))

    # -- extrema ---------------------------------------------------------------------------------------------------

    def argmax(
        self, *, starts: int = 64, generator: torch.Generator | None = None, seed: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The largest value found and where: coordinate ascent from many starts on the nodes, then L-BFGS between them.

        Args:
            starts: random starts, and as many drawn from the square of the function.
            generator, seed: source of randomness; ``seed`` makes a generator.

        Returns:
            The point, shape ``(d,)``, and the value there, a 0-d tensor. A search: it may miss a narrow peak.

        Raises:
            ValueError: both a generator and a seed were given.
        """
        generator = seeded(generator, seed, self.device, "argmax")
        train = TensorTrain([core.detach() for core in self.train.cores], self.train.log_scale.detach())
        return maximize(train, self.bases, starts, generator)

    def argmin(
        self, *, starts: int = 64, generator: torch.Generator | None = None, seed: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The smallest value found and where; see :meth:`argmax`."""
        x, value = (-self).argmax(starts=starts, generator=generator, seed=seed)
        return x, -value


def _equally_likely(basis: Basis, u: Tensor) -> Tensor:
    """Quantiles of the default measure; all categories of a finite set."""
    if basis.discrete:
        return basis.nodes()
    return basis.loc + basis.scale * torch.special.ndtri(u) if isinstance(basis, Hermite) else basis.reference_icdf(u)
