"""A squared functional tensor train as a torch Distribution: exact densities, draws, marginals and conditionals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..typing import Dims, LogDensity
from .arguments import check_columns, check_positions
from .basis import Basis
from .canonical import from_dense
from .conditioning import conditional
from .cross import CrossOptions
from .fitting import fit_density
from .interop import dense_coefficients, train_from_tntorch
from .likelihood import LikelihoodInfo, SampleOptions, fit_sample_train
from .mixture import Mixture, one_moment
from .report import CrossInfo, SweepRecord
from .rosenblatt import block_size, cube_to_density, density_to_cube, sobol_points
from .squared import SquaredTrain
from .storage import density_header, density_parts, load_density, save_density
from .train import TensorTrain

__all__ = ["TTDensity"]

DEFENSIVE = 1e-7  # default weight of the reference; in d = 50 a draw from it costs some 1000 nats, so not more


class TTDensity(Distribution):
    r"""The density :math:`q(x) = (1-\gamma)\, g(x)^2 / \lVert g \rVert^2 + \gamma \prod_k \rho_k(x_k)` of a tensor train g.

    .. math:: g(x) = G_1(x_1) \cdots G_d(x_d), \qquad G_k(x_k) = \sum_i \varphi^{(k)}_i(x_k)\, C_k[:, i, :]

    Normalised by construction; evaluated, sampled, marginalised and conditioned exactly, for any subset of coordinates.
    The reference :math:`\rho` (the *defensive term*) is uniform on bounded coordinates and logistic on the line.

    Args:
        train: coefficients of ``g`` in the bases; leading batch dimensions make a batch of densities.
        bases: one orthonormal basis per mode.
        defensive: the weight :math:`\gamma` in [0, 1).
        info: the report of the fit that made the train.

    Raises:
        ValueError: numbers or sizes of cores and bases differ, or ``defensive`` is out of range.

    References:
        Cui, Dolgov: Deep composition of tensor-trains using squared inverse Rosenblatt transports (2022).
        Dolgov, Anaya-Izquierdo, Fox, Scheichl: Approximation and sampling of multivariate probability distributions in the
        tensor train decomposition (2020).

    >>> from ttvi.tt import Legendre
    >>> bases = [Legendre(-4.0, 4.0, size=24)] * 2
    >>> density = TTDensity.fit(lambda x: -x.square().sum(-1) - x.prod(-1), bases, generator=torch.Generator().manual_seed(0))
    >>> round(float(density.log_evidence), 4)
    1.2886
    >>> density.sample((5,), generator=torch.Generator().manual_seed(1)).shape
    torch.Size([5, 2])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        train: TensorTrain,
        bases: Sequence[Basis],
        *,
        defensive: float = DEFENSIVE,
        info: CrossInfo | LikelihoodInfo | None = None,
    ) -> None:
        bases = tuple(bases)
        sizes = tuple(basis._require_size() for basis in bases)
        if sizes != train.mode_sizes:
            raise ValueError(
                f"TTDensity: expected one basis per mode, of its size {train.mode_sizes}; got sizes {sizes}. "
                "Pass the bases that the coefficients belong to."
            )
        if not 0 <= defensive < 1:
            raise ValueError(f"TTDensity: expected 0 <= defensive < 1; got {defensive}. The default is {DEFENSIVE}.")
        log_share = torch.log(train.cores[0].new_tensor(float(defensive)))
        self._setup(SquaredTrain(train, bases), log_share, train.batch_shape, info)

    def _setup(self, square: SquaredTrain, log_share: Tensor, batch_shape: torch.Size, info: Any) -> None:
        """``square`` carries the batch flattened to at most one dimension, ``batch_shape`` how it is shown."""
        flat = [
            core.expand(*batch_shape, *core.shape[-3:]).flatten(0, -4) if core.dim() > 4 else core
            for core in square.train.cores
        ]
        scale = square.train.log_scale
        if scale.dim() > 1:
            scale = scale.flatten()
        self._square = SquaredTrain(TensorTrain(flat, scale), square.bases, square.canonical)
        self._log_share = log_share.flatten() if log_share.dim() > 1 else log_share
        self._canonical: SquaredTrain | None = self._square if square.canonical else None
        self.info: Any = info
        super().__init__(batch_shape, torch.Size([len(self.bases)]), validate_args=False)

    @classmethod
    def _make(cls, square: SquaredTrain, log_share: Tensor, batch_shape: torch.Size) -> TTDensity:
        new = cls.__new__(cls)
        new._setup(square, log_share, batch_shape, None)
        return new

    # -- construction ----------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        log_density: LogDensity,
        bases: Sequence[Basis],
        *,
        tol: float = CrossOptions.tol,
        max_rank: int = CrossOptions.max_rank,
        budget: int | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
        init_points: Tensor | None = None,
        max_batch: int | None = None,
        defensive: float = DEFENSIVE,
        callback: Callable[[SweepRecord], None] | None = None,
        options: CrossOptions | None = None,
    ) -> TTDensity:
        r"""Approximate an unnormalised log-density by tempered cross approximation of :math:`\sqrt{\tilde p}`.

        About :math:`d\,n\,r^2` evaluations per half-sweep, in ``d`` batches. NaN and +inf are counted and treated as zero
        density; points are evaluated once. The answer is always a normalised density: read ``density.info.status``.

        Args:
            log_density: ``(batch, d)`` to ``(batch,)``.
            bases: one per coordinate; a basis without size has it chosen from the decay of its coefficients.
            tol: relative L2 error of the square root. The train's own log evidence errs by up to about twice as much, the
                effective sample size falls by about its square; importance weights correct the evidence.
            max_rank: cap on every rank.
            budget: the most evaluations to spend.
            generator, seed: source of randomness; ``seed`` makes a generator.
            dtype, device: where and how to compute.
            init_points: points known to matter (modes, say), shape ``(m, d)``.
            max_batch: the most points in one call of ``log_density``.
            defensive: weight of the reference.
            callback: called with a :class:`SweepRecord` after every half-sweep.
            options: all knobs, for experts; ``tol`` and ``max_rank`` override theirs.

        Returns:
            The density; ``density.info`` is the :class:`CrossInfo`.

        Raises:
            TypeError, ValueError: the function returns something else than ``(batch,)`` floating-point values.
            EvaluationError: the function raised, or is zero everywhere it was tried; ``.info`` keeps what was paid for.

        Warns:
            ConvergenceWarning: the tolerance was not reached.
        """
        train, sized, info = fit_density(
            log_density,
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
        return cls(train, sized, defensive=defensive, info=info)

    @classmethod
    def fit_samples(
        cls,
        x: Tensor,
        bases: Sequence[Basis | None] | None = None,
        *,
        weights: Tensor | None = None,
        max_rank: int = 32,
        tol: float = 1e-3,
        validation: float = 0.1,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
        seconds: float | None = None,
        progress: bool = False,
        options: SampleOptions | None = None,
    ) -> TTDensity:
        r"""A density from samples: penalised maximum likelihood on the cores, the rank grown on held-out rows.

        Natural-gradient sweeps over the cores, :math:`O(d\, m\, n\, r^2)` each for ``m`` rows; the weight of the reference is
        fitted too. Conditional densities come from joint samples by :meth:`condition`.

        Args:
            x: samples, shape ``(m, d)``.
            bases: one per column. ``None``, for a column or for all: a box where the samples end sharply, else the line or
                a wide box. A basis without size begins small and grows. Finite columns need their :class:`Categorical`.
            weights: importance weights of the rows, shape ``(m,)``, not logarithms.
            max_rank: cap on every rank.
            tol: a gain in the held-out log-likelihood, in nats per row, that is worth a higher rank.
            validation: the fraction of the rows that is held out.
            generator, seed: source of randomness; ``seed`` makes a generator.
            dtype, device: where and how to compute; float32 is about twice as fast.
            seconds: stop growing after this time.
            progress: whether to write a line per rank to standard error.
            options: all knobs, for experts.

        Returns:
            The density; ``density.info`` is the :class:`LikelihoodInfo`.

        Raises:
            TypeError, ValueError: too few rows, NaN, or arguments of another kind or shape.
            SupportError: a sample lies outside the basis given for it.

        Warns:
            ConvergenceWarning: the likelihood still rose at ``max_rank``, or the time was up.

        References:
            Good, Gaskins: Nonparametric roughness penalties for probability densities (1971).
            Han, Wang, Fan, Wang, Zhang: Unsupervised generative modeling using matrix product states (2018).

        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(2000, 1, generator=generator, dtype=torch.float64).expand(-1, 2)
        >>> x = x + 0.5 * torch.randn(2000, 2, generator=generator, dtype=torch.float64)
        >>> density = TTDensity.fit_samples(x, seed=0)
        >>> density.info.status, bool(density.condition({0: 1.0}).mean > 0.5)
        ('converged', True)
        """
        train, chosen, info = fit_sample_train(
            x,
            bases,
            weights=weights,
            max_rank=max_rank,
            tol=tol,
            validation=validation,
            generator=generator,
            seed=seed,
            dtype=dtype,
            device=device,
            seconds=seconds,
            progress=progress,
            options=options,
        )
        return cls(train, chosen, defensive=info.defensive, info=info)

    @classmethod
    def from_values(
        cls,
        values: Tensor,
        bases: Sequence[Basis],
        *,
        log: bool = False,
        tol: float = 1e-10,
        max_rank: int | None = None,
        defensive: float = DEFENSIVE,
    ) -> TTDensity:
        """TT-SVD of an unnormalised density given on the full grid of nodes.

        Args:
            values: the density (its logarithm with ``log=True``) at the nodes, shape ``(n_1, ..., n_d)``.
            bases: one per dimension.
            log: whether ``values`` are logarithms.
            tol, max_rank: truncation of the square root.
            defensive: weight of the reference.

        Raises:
            ValueError: shapes differ, or a density is negative or not finite.
        """
        sizes = tuple(basis._require_size() for basis in bases)
        if tuple(values.shape) != sizes:
            raise ValueError(
                f"from_values: expected values of shape {sizes}; got {tuple(values.shape)}. Evaluate at all nodes."
            )
        top = values.new_zeros(())
        if log:
            top = values.max()
            values = torch.exp(values - top)
        if not bool(torch.isfinite(values).all()) or bool((values < 0).any()) or not bool((values > 0).any()):
            raise ValueError(
                "from_values: expected finite densities >= 0, one at least > 0. Pass log=True for logarithms."
            )
        train = from_dense(dense_coefficients(values.sqrt(), bases), tol=tol, max_rank=max_rank).train
        return cls(TensorTrain(train.cores, train.log_scale + 0.5 * top), bases, defensive=defensive)

    @classmethod
    def from_tntorch(cls, tensor: Any, bases: Sequence[Basis], *, defensive: float = DEFENSIVE) -> TTDensity:
        """The density whose square root takes the values of a ``tntorch.Tensor`` at the nodes.

        Args:
            tensor: a tntorch tensor in TT format (no Tucker or CP factors), of the shape of the nodes.
            bases: one per dimension.
            defensive: weight of the reference.

        Raises:
            TypeError: it is no tntorch tensor, or has CP cores.
            ValueError: numbers or sizes of dimensions and bases differ.
        """
        return cls(train_from_tntorch(tensor, bases, "from_tntorch"), bases, defensive=defensive)

    # -- description -----------------------------------------------------------------------------------------------

    @property
    def bases(self) -> tuple[Basis, ...]:
        """One basis per coordinate."""
        return tuple(basis for basis in self._square.bases if basis is not None)

    @property
    def train(self) -> TensorTrain:
        """The coefficients of ``g``; latent modes (marginalised coordinates) included."""
        return self._square.train

    @property
    def defensive(self) -> Tensor:
        r"""The weight :math:`\gamma` of the reference, of the batch shape."""
        return self._log_share.exp().expand(self._flat_batch).view(self.batch_shape)

    @property
    def support(self) -> constraints.Constraint:
        """The product of the supports of the bases."""
        return constraints.cat([basis.support for basis in self.bases], dim=-1, lengths=[1] * len(self.bases))

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws can be reparameterised: there is no finite coordinate."""
        return not any(basis.discrete for basis in self.bases)

    @property
    def dtype(self) -> torch.dtype:
        """Element type."""
        return self.train.dtype

    @property
    def device(self) -> torch.device:
        """Device."""
        return self.train.device

    @property
    def log_evidence(self) -> Tensor:
        r"""The train's own :math:`\log \int \tilde p`, of the batch shape.

        After :meth:`condition` it is the log of the integral over what remains. Certify it with importance weights.
        """
        return self._square.log_norm().expand(self._flat_batch).view(self.batch_shape)

    def __repr__(self) -> str:
        batch = f", batch_shape={tuple(self.batch_shape)}" if self.batch_shape else ""
        return f"TTDensity(dim={len(self.bases)}, max_rank={max(self.train.ranks)}{batch})"

    @property
    def _flat_batch(self) -> tuple[int, ...]:
        return (self.batch_shape.numel(),) if self.batch_shape else ()

    def _right_orthogonal(self) -> SquaredTrain:
        if self._canonical is None or (torch.is_grad_enabled() and any(c.requires_grad for c in self.train.cores)):
            canonical = self._square.canonicalized()
            if any(c.requires_grad for c in canonical.train.cores):
                return canonical
            self._canonical = canonical
        return self._canonical

    def _mixture(self) -> Mixture:
        return Mixture(self._right_orthogonal(), self._log_share)

    def _rows(self, x: Tensor, caller: str) -> tuple[Tensor, torch.Size]:
        """Points as ``(S, B, d)`` and the shape that per-point results take."""
        x = check_columns(x, len(self.bases), caller)
        shape = torch.broadcast_shapes(x.shape[:-1], self.batch_shape)
        x = x.to(dtype=self.dtype, device=self.device).expand(*shape, x.shape[-1])
        return x.reshape(-1, max(1, self.batch_shape.numel()), x.shape[-1]), shape

    # -- density ---------------------------------------------------------------------------------------------------

    def log_prob(self, value: Tensor) -> Tensor:
        """The normalised log-density: exact, differentiable in ``value`` and in the cores, ``-inf`` outside the support.

        Args:
            value: shape ``(..., d)``, broadcast against the batch shape.

        Returns:
            Shape ``(...)``.
        """
        x, shape = self._rows(value, "log_prob")
        mixture, log_norm = Mixture(self._square, self._log_share), self._square.log_norm()
        blocks = [mixture.log_prob(part, log_norm) for part in x.split(self._square.block(x.shape[1]))]
        return (torch.cat(blocks) if blocks else x.new_zeros(0)).view(shape)

    def log_prob_grid(self, grids: Sequence[Tensor]) -> Tensor:
        """The normalised log-density on a product grid, much faster than point by point: for pictures and quadrature.

        Args:
            grids: one vector of values per coordinate, shapes ``(g_k,)``.

        Returns:
            Shape ``(g_1, ..., g_d)``.

        Raises:
            ValueError: the number of vectors is wrong, or the density is batched.
        """
        if len(grids) != len(self.bases) or self.batch_shape:
            raise ValueError(
                f"log_prob_grid: expected {len(self.bases)} grids for an unbatched density; got {len(grids)} and batch shape "
                f"{tuple(self.batch_shape)}. Use log_prob for anything else."
            )
        return self._mixture().log_prob_grid([grid.to(dtype=self.dtype, device=self.device) for grid in grids])

    def sample(
        self,
        sample_shape: Sequence[int] | torch.Size = torch.Size(),  # noqa: B008  (the signature of torch)
        *,
        generator: torch.Generator | None = None,
        sobol: bool = False,
    ) -> Tensor:
        """Independent exact draws, or scrambled Sobol points pushed through the transport.

        Args:
            sample_shape: leading shape of the result.
            generator: source of randomness.
            sobol: quasi-Monte Carlo: lower integration error for smooth integrands; take powers of two.

        Returns:
            Shape ``(*sample_shape, *batch_shape, d)``.
        """
        shape = torch.Size(sample_shape)
        full = (*shape, *self.batch_shape, len(self.bases))
        with torch.no_grad():
            if sobol:
                u = sobol_points(self._points(shape), self.train.cores[0], generator)
                return self._transport(cube_to_density, u.view(full), "sample")
            mixture = self._mixture()
            x = mixture.square.sample(shape.numel(), generator)
            return mixture.mixed(x, self._points(shape)[1], generator).reshape(full)

    def rsample(
        self,
        sample_shape: Sequence[int] | torch.Size = torch.Size(),  # noqa: B008
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws that are differentiable in the cores (implicit reparameterisation).

        Args:
            sample_shape: leading shape of the result.
            generator: source of randomness.

        Returns:
            Shape ``(*sample_shape, *batch_shape, d)``.

        Raises:
            TypeError: there are finite coordinates.
        """
        if not self.has_rsample:
            raise TypeError(
                "rsample: expected continuous coordinates only; got a Categorical one. Use sample(), or condition on it."
            )
        shape = torch.Size(sample_shape)
        u = torch.rand(self._points(shape), dtype=self.dtype, device=self.device, generator=generator)
        mixture = self._mixture()
        x = cube_to_density(Mixture(mixture.square, self._log_share.new_tensor(-torch.inf)), u)
        x = mixture.mixed(x, u.shape[1], generator)
        return x.reshape(*shape, *self.batch_shape, len(self.bases))

    def _points(self, shape: torch.Size) -> tuple[int, int, int]:
        """Shape ``(S, B, d)`` of the draws of a sample shape."""
        return shape.numel(), max(1, self.batch_shape.numel()), len(self.bases)

    # -- transport -------------------------------------------------------------------------------------------------

    def rosenblatt(self, x: Tensor) -> Tensor:
        r"""The triangular map to the unit cube, :math:`u_k = Q(x_k \mid x_1, \dots, x_{k-1})`; uniform for draws of ``self``.

        Args:
            x: shape ``(..., d)``, broadcast against the batch shape.

        Returns:
            The same shape. At an atom of a finite coordinate, the middle of its jump.

        References:
            Rosenblatt: Remarks on a multivariate transformation (1952).
        """
        return self._transport(density_to_cube, x, "rosenblatt")

    def inverse_rosenblatt(self, u: Tensor) -> Tensor:
        """The inverse of :meth:`rosenblatt`, to full precision and differentiable.

        Args:
            u: levels in the closed unit cube, shape ``(..., d)``, broadcast against the batch shape.

        Returns:
            Points of the same shape.

        Raises:
            ValueError: a level lies outside [0, 1].
        """
        if isinstance(u, Tensor) and not bool(((u >= 0) & (u <= 1)).all()):
            raise ValueError("inverse_rosenblatt: expected levels in [0, 1]; got some outside. Apply a cdf first.")
        return self._transport(cube_to_density, u, "inverse_rosenblatt")

    def _transport(self, mapping: Callable[[Mixture, Tensor], Tensor], points: Tensor, caller: str) -> Tensor:
        rows, shape = self._rows(points, caller)
        mixture = self._mixture()
        parts = rows.split(max(1, block_size(mixture.square) // rows.shape[1]))
        result = torch.cat([mapping(mixture, part) for part in parts]) if len(rows) else rows
        return result.view(*shape, len(self.bases))

    # -- marginals, conditionals, moments ----------------------------------------------------------------------------

    def marginal(self, dims: Dims) -> TTDensity:
        """The exact marginal of any subset of the coordinates, in their original order.

        Args:
            dims: positions of the coordinates that stay.

        Raises:
            ValueError: there are none, or one is named twice.
            IndexError: a position does not exist.
        """
        keep = sorted(check_positions(dims, len(self.bases), "marginal"))
        if not keep:
            raise ValueError(
                "marginal: expected at least one coordinate to keep; got none. Name positions, e.g. [0, 3]."
            )
        if len(keep) == len(self.bases):
            return self
        return self._make(self._right_orthogonal().marginal(keep), self._log_share, self.batch_shape)

    def log_prob_columns(self, value: Tensor) -> Tensor | None:
        """Log-density of every coordinate by itself, where they are independent; None where they are not.

        Args:
            value: points, shape ``(batch, d)``.

        Returns:
            Shape ``(batch, d)``, whose sum is :meth:`log_prob` but for what the reference holds.
        """
        if self.batch_shape or max(self.train.ranks) > 1:
            return None
        columns = [self.marginal([k]).log_prob(value[:, k : k + 1]) for k in range(len(self.bases))]
        return torch.stack(columns, 1)

    def condition(self, values: Mapping[int, Any]) -> TTDensity:
        """The exact conditional given any subset of the coordinates, over the remaining ones in their original order.

        Args:
            values: position to value. Tensors of shapes that broadcast together make a batch of conditionals, whose batch
                shape is that shape (in front of the batch shape this density has).

        Raises:
            IndexError: a position does not exist.
            ValueError: nothing or everything is fixed.
            SupportError: a value lies outside the support.
        """
        positions = check_positions(list(values), len(self.bases), "condition")
        if not positions or len(positions) == len(self.bases):
            raise ValueError(
                f"condition: expected between 1 and {len(self.bases) - 1} coordinates; got {len(positions)}. Leave one free."
            )
        fixed = {
            p: torch.as_tensor(v, dtype=self.dtype, device=self.device)
            for p, v in zip(positions, values.values(), strict=True)
        }
        square = self._square if any(core.requires_grad for core in self.train.cores) else self._right_orthogonal()
        return self._make(*conditional(square, self._log_share, self.batch_shape, self.bases, fixed))

    @property
    def mean(self) -> Tensor:
        """Exact means, shape ``(*batch_shape, d)``."""
        return self._mixture().moments()[0].expand(max(1, self.batch_shape.numel()), -1).reshape(*self.batch_shape, -1)

    @property
    def variance(self) -> Tensor:
        """Exact variances, shape ``(*batch_shape, d)``."""
        return self.covariance.diagonal(dim1=-2, dim2=-1)

    @property
    def covariance(self) -> Tensor:
        """Exact covariance matrix, shape ``(*batch_shape, d, d)``. Cost O(d² · n · r³)."""
        mean, second = self._mixture().moments()
        result = second - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        d = len(self.bases)
        return result.expand(max(1, self.batch_shape.numel()), d, d).reshape(*self.batch_shape, d, d)

    def moment(self, k: int, power: int) -> Tensor:
        r"""The exact moment :math:`E[x_k^p]` of one coordinate, of the batch shape.

        Args:
            k: position of the coordinate.
            power: the exponent :math:`p`, at least zero.
        """
        (k,) = check_positions([k], len(self.bases), "moment")
        return (
            one_moment(self.marginal([k])._mixture(), power).expand(self._flat_batch or (1,)).reshape(self.batch_shape)
        )

    def entropy(self, num_samples: int = 10_000, *, generator: torch.Generator | None = None) -> Tensor:
        r"""Monte Carlo estimate of :math:`-\int q \log q` in nats, of the batch shape; unbiased, error :math:`O(N^{-1/2})`.

        Args:
            num_samples: the number :math:`N` of draws.
            generator: source of randomness.
        """
        return -self.log_prob(self.sample((num_samples,), generator=generator)).mean(0)

    # -- moving and keeping ------------------------------------------------------------------------------------------

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> TTDensity:
        """The same density in another dtype or on another device."""
        square = SquaredTrain(self.train.to(dtype=dtype, device=device), self._square.bases, self._square.canonical)
        new = self._make(square, self._log_share.to(dtype=dtype, device=device), self.batch_shape)
        new.info = self.info
        return new

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that define the density, by name."""
        tensors = {f"cores.{k}": core for k, core in enumerate(self.train.cores)}
        return {**tensors, "log_scale": self.train.log_scale, "log_share": self._log_share}

    def save(self, path: Any) -> None:
        """Write a safetensors file (extra ``io``), atomically: coefficients, bases and a schema version; no pickle."""
        save_density(path, self.state_dict(), self._square, self.batch_shape)

    @classmethod
    def load(
        cls, path: Any, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> TTDensity:
        """Read what :meth:`save` wrote.

        Args:
            path: the file.
            dtype, device: what to convert to; ``None`` keeps the dtype of the file, on the CPU.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a saved density, or its schema is newer than this version reads.
        """
        square, log_share, batch_shape = load_density(path)
        return cls._make(square, log_share, batch_shape).to(dtype=dtype, device=device)

    def _to_record(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """Description, tensors and children, for :mod:`ttvi.records`."""
        return density_header(self._square, self.batch_shape), self.state_dict(), {}

    @classmethod
    def _from_record(
        cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], children: Mapping[str, Any]
    ) -> TTDensity:
        return cls._make(*density_parts(spec, tensors))
