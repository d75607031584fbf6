"""What a fit returns: a normalised density with names, weighted draws that correct it, and an honest account of itself."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .corrected import independence_chains, log_ratio, resample
from .diagnostics import WeightedDraws, smooth_log_weights
from .errors import MissingExtraError
from .estimates import (
    Estimate,
    evaluated,
    weighted_covariance,
    weighted_expectation,
    weighted_quantile,
    weighted_variance,
)
from .named import NamedDensity
from .records import load_record, register, save_record
from .summary import Summary, coordinate_rows
from .supports import Finite, Support
from .tt.arguments import check_columns, seeded
from .verdict import Diagnostics, Verdict, verdict

__all__ = ["Posterior", "load"]

_KEPT = 64  # states that one chain gives
_WARM = 16  # steps before them: a chain starts at a resampled draw, so that a few are enough
_MOST_PROPOSALS = 20  # per draw, when resampling


@register("Posterior")
class Posterior(NamedDensity):
    r"""A normalised approximation :math:`q` of a target :math:`\tilde p`, and draws with weights :math:`w = \tilde p / q`.

    ``sample``, ``log_prob``, ``marginal`` and ``condition`` are those of ``q``, exactly. Means, quantiles and the log
    evidence are those of the target: self-normalised estimates with Pareto-smoothed weights and standard errors.

    Args:
        distribution: ``q`` over the user's coordinates.
        support: their names and sets.
        draws: draws of ``q``, shape (S, dim).
        log_weights: :math:`\log \tilde p - \log q` of the draws, shape (S,), in nats; None (or NaN for all) if a budget
            ended before the target was asked. Estimates are then those of ``q``, and the verdict says so.
        diagnostics: what the fit reports; from the weights alone when None.
        log_density: the target, for ``sample(corrected=...)``; kept in memory, never saved.
        seed: of the random choices that have no generator of their own.

    Raises:
        ValueError: shapes do not fit.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling" (2024).

    >>> from ttvi.supports import Support, interval
    >>> from ttvi.tt import Legendre, TTDensity
    >>> target = lambda x: -0.5 * ((x - 1) / 0.5).square().sum(-1)
    >>> density = TTDensity.fit(target, [Legendre(-3.0, 5.0, size=40)] * 2, tol=1e-4, seed=0)
    >>> x = density.sample((2000,), generator=torch.Generator().manual_seed(1))
    >>> support = Support.parse({"theta": (interval(-3.0, 5.0), 2)})
    >>> posterior = Posterior(density, support, draws=x, log_weights=target(x) - density.log_prob(x), log_density=target)
    >>> bool((posterior.mean["theta"] - 1).abs().max() < 4 * posterior.mean.standard_error.max())
    True
    >>> posterior.marginal("theta[0]").names
    ('theta[0]',)
    """

    def __init__(
        self,
        distribution: Any,
        support: Support,
        *,
        draws: Tensor,
        log_weights: Tensor | None,
        diagnostics: Diagnostics | None = None,
        log_density: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(distribution, support)
        draws = check_columns(draws, support.dim, "Posterior").detach()
        if log_weights is None:
            log_weights = torch.full(draws.shape[:1], math.nan, dtype=torch.float64, device=draws.device)
        if draws.dim() != 2 or log_weights.shape != draws.shape[:1] or len(draws) == 0:
            raise ValueError(
                f"Posterior: expected draws of shape (S, {support.dim}) with S log-weights; got {tuple(draws.shape)} and "
                f"{tuple(log_weights.shape)}. Pass one weight per draw."
            )
        self.draws = draws
        self.log_weights = log_weights.detach().to(torch.float64)
        self.log_density = log_density
        self.seed = seed
        known = not bool(self.log_weights.isnan().all())
        smoothed = smooth_log_weights(self.log_weights)[0] if known else torch.zeros_like(self.log_weights)
        self._weights = torch.softmax(smoothed, 0)
        if diagnostics is None:
            diagnostics = Diagnostics.from_draws(WeightedDraws(draws, self.log_weights)) if known else Diagnostics()
        self.diagnostics = diagnostics
        self._inside = draws[0]

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the draws."""
        return self.draws.dtype

    @property
    def device(self) -> torch.device:
        """Device of the draws."""
        return self.draws.device

    @property
    def verdict(self) -> Verdict:
        """The judgement on the fit, in words."""
        return verdict(self.diagnostics)

    def __repr__(self) -> str:
        d = self.diagnostics
        evidence = f"log evidence {d.log_evidence:.4g} ± {d.standard_error:.1g}"
        return f"Posterior(dim={self.dim}, {evidence}, ess={d.ess:.3f}, {self.verdict.level!r})"

    # -- draws -------------------------------------------------------------------------------------------------------

    def sample(
        self,
        shape: Sequence[int] | int = (),
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        sobol: bool = False,
        corrected: bool | Literal["mh", "resample"] = False,
    ) -> Tensor:
        """Independent draws of the approximation, or corrected draws of the target itself.

        Args:
            shape: leading shape of the result; a number is a shape of one dimension.
            generator, seed: source of randomness; ``seed`` makes a generator.
            sobol: scrambled Sobol points pushed through the transport, where there is one.
            corrected: True or "mh": independence Metropolis-Hastings, many short chains that start at resampled draws;
                exact in the limit, and costs about 1.25 evaluations per draw. "resample": the weights of fresh draws choose
                among them, about 2/ESS evaluations per draw; no draw is repeated more often than its weight asks for.

        Returns:
            Shape ``(*shape, dim)``.

        Raises:
            ValueError: corrected draws are asked for without a log-density, or contradictory arguments were given.
        """
        if corrected is False:
            return super().sample(shape, generator=generator, seed=seed, sobol=sobol)
        if corrected not in (True, "mh", "resample"):
            raise ValueError(
                f"sample: expected corrected to be True, False, 'mh' or 'resample'; got {corrected!r}. Pick one."
            )
        if sobol:
            raise ValueError("sample: expected sobol=True or corrected=, not both. Drop one.")
        self._require_weights("sample")
        source = seeded(generator, seed, self.device, "sample")
        leading = torch.Size([shape] if isinstance(shape, int) else list(shape))
        count = leading.numel()
        if count == 0:
            return self.draws.new_zeros(*leading, self.dim)
        if corrected == "resample":
            x = self._resampled(count, source)
        else:
            chains = math.ceil(count / _KEPT)
            states = self._chains(chains, math.ceil(count / chains), source)[0].reshape(-1, self.dim)
            # Neighbours of one chain are alike: any part of the result should stand for the whole.
            x = states[torch.randperm(len(states), generator=source, device=self.device)[:count]]
        return x.reshape(*leading, self.dim)

    def _chains(self, chains: int, kept: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Independence Metropolis-Hastings: states (kept, chains, dim) and their log-weights (kept, chains)."""
        start = resample(self._weights, chains, generator=generator)
        steps = _WARM + kept
        x = super().sample((steps * chains,), generator=generator)
        first = self.log_weights[start]
        first = torch.where(first.isnan(), -math.inf, first)  # an unknown weight leaves at the first chance
        log_weights = torch.cat([first, self._log_ratio(x)]).view(1 + steps, chains)
        x = torch.cat([self.draws[start], x]).view(1 + steps, chains, self.dim)
        path = independence_chains(log_weights, generator=generator)[_WARM:]
        return x.gather(0, path.unsqueeze(-1).expand(-1, -1, self.dim)), log_weights.gather(0, path)

    def _resampled(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Fresh draws, chosen by their smoothed weights."""
        wanted = 2 / max(self.diagnostics.ess, 1e-9) if math.isfinite(self.diagnostics.ess) else _MOST_PROPOSALS
        proposals = max(100, math.ceil(count * min(wanted, _MOST_PROPOSALS)))
        x = super().sample((proposals,), generator=generator)
        weights = torch.softmax(smooth_log_weights(self._log_ratio(x))[0], 0)
        if not bool(weights.isfinite().all()):
            raise ValueError("sample: expected proposals of positive weight; got none. Use corrected='mh'.")
        return x[resample(weights, count, generator=generator)]

    def _log_ratio(self, x: Tensor) -> Tensor:
        if self.log_density is None:
            raise ValueError(
                "sample: expected a log-density to correct the draws with; got none (it is not saved, nor known for marginals). "
                "Pass ttvi.load(path, log_density=...), or sample the joint posterior."
            )
        return log_ratio(x, self.log_density, self.log_prob, "sample")

    def _require_weights(self, caller: str) -> Tensor:
        """Normalised, smoothed weights of the draws."""
        if not bool(self._weights.isfinite().all()):
            raise ValueError(
                f"{caller}: expected draws of positive weight; every one has zero density. Read posterior.summary()."
            )
        return self._weights

    # -- numbers -----------------------------------------------------------------------------------------------------

    @property
    def log_evidence(self) -> tuple[float, float]:
        r"""The estimate of :math:`\log\int\tilde p` and its standard error, in nats."""
        return self.diagnostics.log_evidence, self.diagnostics.standard_error

    @property
    def weights(self) -> Tensor:
        """Smoothed weights of ``draws``, shape (S,), summing to one."""
        return self._require_weights("weights")

    def expectation(self, function: Callable[[Tensor], Tensor]) -> Estimate:
        r"""The expectation of a function under the target, :math:`\sum_s w_s f(x_s)`, with its standard error.

        Args:
            function: ``(S, dim)`` to ``(S, ...)``.

        Raises:
            ValueError: the function returns something else.
        """
        return Estimate.of(*weighted_expectation(evaluated(function, self.draws), self._require_weights("expectation")))

    @property
    def mean(self) -> Estimate:
        """Means of the target, shape (dim,); ``mean["tau"]`` by name. An angle's mean direction is in the summary."""
        return Estimate.of(*weighted_expectation(self.draws, self._require_weights("mean")), self._places)

    @property
    def variance(self) -> Estimate:
        """Variances, shape (dim,)."""
        return Estimate.of(*weighted_variance(self.draws, self._require_weights("variance")), self._places)

    @property
    def standard_deviation(self) -> Estimate:
        """Standard deviations, shape (dim,)."""
        value, error = weighted_variance(self.draws, self._require_weights("standard_deviation"))
        sd = value.clamp_min(0).sqrt()
        return Estimate.of(sd, error / (2 * sd.clamp_min(torch.finfo(sd.dtype).tiny)), self._places)

    @property
    def covariance(self) -> Estimate:
        """Covariance matrix, shape (dim, dim); ``covariance["tau", "mu"]`` by names. Cost O(S dim²)."""
        return Estimate.of(*weighted_covariance(self.draws, self._require_weights("covariance")), self._places)

    def quantile(self, levels: float | Sequence[float] | Tensor) -> Estimate:
        """Quantiles of every coordinate, with Woodruff's standard errors.

        Args:
            levels: in [0, 1], a number or several.

        Returns:
            Shape (dim,) for a number, else (number of levels, dim).

        Raises:
            ValueError: a level lies outside [0, 1].
        """
        asked = torch.as_tensor(levels, dtype=self.dtype, device=self.device)
        if not bool(((asked >= 0) & (asked <= 1)).all()):
            raise ValueError(f"quantile: expected levels in [0, 1]; got {asked.tolist()}. Divide percentages by 100.")
        discrete = torch.tensor([isinstance(kind, Finite) for kind in self.kinds], device=self.device)
        value, error = weighted_quantile(self.draws, self._require_weights("quantile"), asked.reshape(-1), discrete)
        shape = (*asked.shape, self.dim)
        return Estimate.of(value.reshape(shape), error.reshape(shape), self._places)

    def summary(self) -> Summary:
        """The table that a person reads: coordinates, log evidence, effective draws, verdict, next step."""
        weights = self._weights
        if not bool(weights.isfinite().all()):
            weights = torch.full_like(weights, 1 / len(weights))  # the verdict says what such a table is worth
        rows = coordinate_rows(self.draws, weights, self.names, self.kinds)
        return Summary(rows, self.diagnostics, self.verdict)

    # -- parts and other forms ---------------------------------------------------------------------------------------

    def marginal(self, dims: Any) -> Posterior:
        """The exact marginal of some coordinates, in their original order, with the weights and the account of the fit.

        Its means and quantiles are corrected, as those of the joint posterior are; ``sample(corrected=...)`` is not for it.

        Args:
            dims: positions, names, or names of blocks.

        Raises:
            IndexError, ValueError: a coordinate does not exist, or this approximation has no exact marginal of them.
        """
        keep, distribution, support = self._marginal(dims)
        return Posterior(
            distribution,
            support,
            draws=self.draws[:, keep],
            log_weights=self.log_weights,
            diagnostics=self.diagnostics,
            seed=self.seed,
        )

    def to_dict(self, x: Tensor | None = None) -> dict[str, Tensor]:
        """Points as one tensor per block of the support; the certificate's draws when none are given."""
        return super().to_dict(self.draws if x is None else x)

    def to_arviz(self, *, num_chains: int = 4, num_draws: int = 1000, corrected: bool = False) -> Any:
        """Draws of the target for ArviZ, with their log-density as ``sample_stats.lp``.

        Args:
            num_chains, num_draws: shape of what ArviZ gets.
            corrected: run that many Metropolis-Hastings chains, which need the log-density and
                ``num_chains · (num_draws + 16)`` evaluations. Otherwise the certificate's draws are resampled by their
                weights: no evaluation, but ArviZ's own convergence numbers then say nothing.

        Returns:
            An ``InferenceData``, or a ``DataTree`` from ArviZ 1.0 on.

        Raises:
            MissingExtraError: ArviZ is not installed.
            ValueError: corrected draws are asked for without a log-density.
        """
        try:
            import arviz
        except ImportError:
            raise MissingExtraError("to_arviz", "arviz", "arviz") from None
        weights = self._require_weights("to_arviz")
        source = torch.Generator(self.device).manual_seed(self.seed)
        if corrected:
            x, log_weights = (part.transpose(0, 1) for part in self._chains(num_chains, num_draws, source))
        else:
            chosen = resample(weights, num_chains * num_draws, generator=source).view(num_chains, num_draws)
            x, log_weights = self.draws[chosen], self.log_weights[chosen]
        lp = self.log_prob(x).detach() + log_weights
        groups: dict[str, Any] = {
            "posterior": {name: value.cpu().numpy() for name, value in self.to_dict(x).items()},
            "sample_stats": {"lp": lp.cpu().numpy()},
        }
        return arviz.from_dict(groups) if int(arviz.__version__.split(".")[0]) else arviz.from_dict(**groups)

    # -- keeping -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a directory of a JSON and a safetensors file (extra ``io``), atomically; never a pickle.

        Args:
            path: the directory, made if need be; other files in it are left alone.

        Raises:
            TypeError: the distribution, or a constraint of the support, is of a kind that cannot be described.
            ValueError: ``path`` is a file.
        """
        save_record(self, path)

    def _to_record(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """Description, tensors and children, for :mod:`ttvi.records`."""
        spec = {"support": self.support.to_spec(), "diagnostics": self.diagnostics.to_dict(), "seed": self.seed}
        return spec, {"draws": self.draws, "log_weights": self.log_weights}, {"distribution": self.distribution}

    @classmethod
    def _from_record(
        cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], children: Mapping[str, Any]
    ) -> Posterior:
        return cls(
            children["distribution"],
            Support.from_spec(spec["support"]),
            draws=tensors["draws"],
            log_weights=tensors["log_weights"],
            diagnostics=Diagnostics.from_dict(spec["diagnostics"]),
            seed=spec["seed"],
        )


def load(
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    log_density: Callable[[Tensor], Tensor] | None = None,
) -> Posterior:
    """Read what `Posterior.save` wrote.

    Args:
        path: the directory.
        dtype, device: what to convert to; None keeps the saved dtype, on the CPU. The log-weights stay in float64.
        log_density: the target, which is not saved; only ``sample(corrected=...)`` needs it.

    Returns:
        The posterior, its certificate's draws and weights included.

    Raises:
        FileNotFoundError: there is no saved posterior.
        ValueError: the files are damaged, or of a newer schema.
    """
    posterior = load_record(path, kind="Posterior", dtype=dtype, device=device, exact=("log_weights",))
    posterior.log_density = log_density
    _freeze(posterior.distribution)
    return posterior


def _freeze(density: Any) -> None:
    """Networks inside a density are no longer trained: its log-density carries gradients in the points alone."""
    if isinstance(density, torch.nn.Module):
        density.requires_grad_(False)
    for part in getattr(density, "parts", ()):
        _freeze(part)
    if hasattr(density, "base"):
        _freeze(density.base)
