"""What a fit approximates: a log-density, where it lives, what is known about it, and how it may be evaluated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .calling import BATCHING, Caller
from .evaluation import Evaluations
from .evaluation_log import EvaluationLog
from .prior import Prior
from .supports import Finite, Line, Support

__all__ = ["Target"]


class Target:
    """An unnormalised log-density with its support.

    Args:
        log_density: log p̃ (nats) as a function of a batch, ``(batch, dim) -> (batch,)``, or of a row, with torch or NumPy.
        dim: number of coordinates; not needed where ``support`` says it.
        support: see :meth:`ttvi.supports.Support.parse`; all real by default.
        names: one per coordinate.
        gradient: "auto" tries autograd; ``True`` relies on it; ``False`` does without; or a function
            ``(batch, dim) -> (batch, dim)``.
        init_points: points of good density in the user's coordinates, shape ``(m, dim)``, if some are known.
        batching: "native" (a batch), "vmap", "loop" (a row), or "auto" to find out.
        max_batch: the most points in one call.
        executor: a ``concurrent.futures.Executor``: a process pool, ``dask.distributed.Client.get_executor()``,
            ``mpi4py.futures.MPIPoolExecutor``. Results do not depend on the number of its workers.
        dtype: what ``log_density`` is given.
        device: where it is given it.
        caller: the public name for messages about these arguments.

    Attributes:
        support: the support, names included.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, or contradicts another.

    >>> target = Target(lambda x: -0.5 * (x**2).sum(-1), dim=2)
    >>> account = target.session(budget=1000)
    >>> account(torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
    tensor([-2., -1.], dtype=torch.float64)
    >>> account.num_evaluations, account.budget
    (2, 1000)
    """

    def __init__(
        self,
        log_density: Callable[[Any], Any],
        *,
        dim: int | None = None,
        support: Any = None,
        names: Sequence[str] | None = None,
        gradient: Any = "auto",
        init_points: Any = None,
        batching: str = "auto",
        max_batch: int | None = None,
        executor: Any = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
        caller: str = "Target",
    ) -> None:
        if not callable(log_density):
            raise TypeError(
                f"{caller}: expected a callable as `log_density`; got {type(log_density).__name__}. Pass a function of a batch."
            )
        if batching not in BATCHING:
            raise ValueError(
                f'{caller}: expected batching in {sorted(BATCHING)}; got {batching!r}. Leave it at "auto".'
            )
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(
                f"{caller}: expected a floating-point dtype; got {dtype}. Use torch.float64 or torch.float32."
            )
        if not (gradient in ("auto", True, False, None) or callable(gradient)):
            raise TypeError(
                f'{caller}: expected gradient to be "auto", a bool or a callable; got {gradient!r}. Leave it out.'
            )
        self.log_density, self.dtype = log_density, dtype
        self.device = torch.device("cpu" if device is None else device)
        self.support = Support.parse(support, dim=dim, names=names, caller=caller)
        self.max_batch, self.executor = _positive("max_batch", max_batch, caller), _executor(executor, caller)
        self.init_points = None if init_points is None else self._points(init_points, caller)
        self.prior: Prior | None = None
        self.log_likelihood: Callable[[Any], Any] | None = None
        self._caller = Caller(log_density, batching=batching, gradient=gradient, dtype=dtype, device=self.device)

    @classmethod
    def from_prior(
        cls,
        prior: Sequence[Any] | Mapping[str, Any],
        log_likelihood: Callable[[Any], Any],
        *,
        names: Sequence[str] | None = None,
        **options: Any,
    ) -> Target:
        """A posterior: log p̃(x) = log prior(x) + log_likelihood(x); its log evidence is the model's.

        Args:
            prior: torch distributions or frozen SciPy distributions, one per coordinate or block, in a list or in a dict by
                name. Supports follow from them.
            log_likelihood: a function of a batch or of a row, as ``log_density`` is.
            names: one per coordinate.
            options: further arguments of ``Target``.

        Returns:
            A target with ``sample_prior``, ``log_prior`` and ``log_likelihood``, from which tempering can start at the prior.

        Raises:
            TypeError, ValueError: an entry is not a distribution, or its support is not one that ttvi handles.

        >>> prior = {"rate": torch.distributions.Gamma(2.0, 1.0), "shift": torch.distributions.Normal(0.0, 1.0)}
        >>> target = Target.from_prior(prior, lambda x: 3 * x[:, 0].log() - x[:, 0] - x[:, 1] ** 2)
        >>> target.names, target.sample_prior(5, generator=torch.Generator().manual_seed(0)).shape
        (('rate', 'shift'), torch.Size([5, 2]))
        """
        if not callable(log_likelihood):
            raise TypeError(
                f"from_prior: expected a callable as `log_likelihood`; got {type(log_likelihood).__name__}. "
                "Pass a function of a batch."
            )
        made = Prior(prior)
        target = cls(_Posterior(made, log_likelihood), support=made.support, names=names, **options)
        target.prior, target.log_likelihood = made, log_likelihood
        return target

    @property
    def dim(self) -> int:
        """Number of coordinates of the user's vector."""
        return self.support.dim

    @property
    def names(self) -> tuple[str, ...]:
        """One name per coordinate."""
        return self.support.names

    def sample_prior(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws from the prior, shape ``(count, dim)``, float64.

        Raises:
            ValueError: the target was not made by ``from_prior``.
        """
        return self._needed_prior().sample(count, generator=generator).to(self.device)

    def log_prior(self, x: Tensor) -> Tensor:
        """Normalised log-density of the prior, shape ``(batch, dim)`` to ``(batch,)``; costs no evaluation.

        Subtracted from a value of the target it leaves the log-likelihood.

        Raises:
            ValueError: the target was not made by ``from_prior``.
        """
        return self._needed_prior().log_prob(x)

    def session(
        self,
        *,
        budget: int | None = None,
        checkpoint: Any = None,
        cache: bool = True,
        progress: Callable[[Evaluations], None] | None = None,
        executor: Any = None,
        max_batch: int | None = None,
    ) -> Evaluations:
        """A fresh account, for one fit.

        Args:
            budget: the most evaluations.
            checkpoint: a directory for the evaluation log; made where it is missing, resumed where it holds a log.
            cache: whether values are remembered; a checkpoint remembers them in any case.
            progress: called with the account after every piece of work.
            executor: in place of the target's.
            max_batch: in place of the target's.

        Raises:
            ValueError: the checkpoint belongs to another target, or a number is out of range.
        """
        log = None
        if checkpoint is not None:
            log = EvaluationLog(checkpoint, dim=self.dim, fingerprint=self._fingerprint())
        return Evaluations(
            self._caller,
            self.dim,
            budget=_positive("budget", budget, "session"),
            max_batch=_positive("max_batch", max_batch, "session") or self.max_batch,
            executor=_executor(executor, "session") if executor is not None else self.executor,
            cache=cache,
            log=log,
            progress=progress,
            reference=self._reference(),
        )

    def __repr__(self) -> str:
        return f"Target({getattr(self.log_density, '__name__', type(self.log_density).__name__)}, {self.support})"

    def _needed_prior(self) -> Prior:
        if self.prior is None:
            raise ValueError("Target: expected a target with a prior; got one without. Make it by Target.from_prior.")
        return self.prior

    def _reference(self) -> Tensor:
        """Two points of the support: initial ones, or its middle."""
        if self.init_points is not None:
            return self.init_points[:2]
        middle = [
            0.0
            if isinstance(kind, Line)
            else len(kind.values) // 2
            if isinstance(kind, Finite)
            else 0.5 * (kind.lower + kind.upper)
            for kind in self.support.kinds
        ]
        y = torch.tensor([middle, middle], dtype=torch.float64)
        y[1] += 0.1 * torch.tensor([isinstance(kind, Line) for kind in self.support.kinds])
        return self.support.to_x(y)[0]

    def _fingerprint(self) -> bytes:
        """Tells one support from another; two functions on one support look alike."""
        try:
            spec = json.dumps({"support": self.support.to_spec(), "dtype": str(self.dtype)}, sort_keys=True)
        except TypeError:
            spec = repr(self.support)
        return hashlib.sha256(spec.encode()).digest()

    def _points(self, given: Any, caller: str) -> Tensor:
        """Initial points, inside the support; angles may be given in any turn."""
        points = torch.as_tensor(given, dtype=torch.float64, device=self.device).detach()
        if (
            points.dim() != 2
            or points.shape[1] != self.dim
            or not len(points)
            or not bool(torch.isfinite(points).all())
        ):
            raise ValueError(
                f"{caller}: expected init_points of shape (m, {self.dim}) with finite entries; got {tuple(points.shape)}. "
                "One row per point."
            )
        points = self.support.wrap(points)
        inside = self.support.contains(points)
        if not bool(inside.all()):
            raise ValueError(
                f"{caller}: expected init_points in the support; got {points[~inside][0].tolist()}. Remove the "
                f"{int((~inside).sum())} points outside."
            )
        return points


class _Posterior:
    """log prior + log_likelihood of a batch or of a row, in torch or NumPy as it is called; picklable."""

    def __init__(self, prior: Prior, log_likelihood: Callable[[Any], Any]) -> None:
        self._prior, self._log_likelihood = prior, log_likelihood

    def __call__(self, x: Any) -> Any:
        value = self._log_likelihood(x)
        points = x if isinstance(x, Tensor) else torch.from_numpy(x)
        prior = self._prior.log_prob(points)
        if isinstance(x, Tensor) and isinstance(value, Tensor):
            _alike(value.shape, prior.shape)
            return prior + value
        _alike(getattr(value, "shape", ()), prior.shape)
        return prior.detach().cpu().numpy() + value


def _alike(found: Any, wanted: Any) -> None:
    """A likelihood of another shape must not be spread over the prior's by broadcasting."""
    if tuple(found) != tuple(wanted):
        remedy = "Sum over the last dimension." if len(found) > len(wanted) else "Return one value per point."
        raise ValueError(f"expected `log_likelihood` to return shape {tuple(wanted)}; got {tuple(found)}. {remedy}")


def _positive(name: str, value: int | None, caller: str) -> int | None:
    if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
        raise ValueError(f"{caller}: expected {name} to be a positive integer; got {value}. Leave it out for no bound.")
    return None if value is None else int(value)


def _executor(executor: Any, caller: str) -> Any:
    if executor is not None and not (hasattr(executor, "submit") or hasattr(executor, "map")):
        raise TypeError(
            f"{caller}: expected `executor` with submit or map; got {type(executor).__name__}. "
            "E.g. concurrent.futures.ProcessPoolExecutor(), or client.get_executor() of Dask."
        )
    return executor
