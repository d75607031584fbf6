"""The base of a flow as a module: any distribution, its tensors registered, its draws reproducible."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, Transform, constraints

from ..tt.density import TTDensity
from ..tt.squared import SquaredTrain
from ..tt.train import TensorTrain

__all__ = ["Base"]

STD_NORMAL = Normal(0.0, 1.0)


class Base(nn.Module):
    """A distribution whose tensors are buffers (or parameters), so that it moves and saves with the module around it.

    Args:
        distribution: over points of shape ``(d,)``, without a batch. A module stays one; of any other distribution the
            tensors are copied.
        trainable: make the cores of a :class:`~ttvi.tt.TTDensity`, or the parameters of a module, parameters.

    Raises:
        TypeError: it is no distribution, or nothing in it can be trained.
        ValueError: it has a batch shape, or its points are not vectors.
    """

    anchor: Tensor

    def __init__(self, distribution: Any, *, trainable: bool = False) -> None:
        super().__init__()
        _check(distribution, trainable)
        self.trainable = trainable
        self.dim = int(distribution.event_shape[0])
        self.module: Any = None
        if isinstance(distribution, nn.Module):
            self.module = copy.deepcopy(distribution).requires_grad_(trainable)
        else:
            found = _tensors(distribution)
            self._names = {path: path.replace(".", "_") for path in found}
            for path, tensor in found.items():
                value = tensor.detach().clone()
                if trainable and path.startswith("cores."):
                    self.register_parameter(self._names[path], nn.Parameter(value))
                else:
                    self.register_buffer(self._names[path], value)
            self._template = distribution
        self._cached: tuple[tuple[object, ...], Any] | None = None
        if self.module is None and not trainable:
            self._cached = (self._key(), distribution)
        anchor = draw(distribution, torch.Size(), torch.Generator(self.like.device).manual_seed(0))
        self.register_buffer("anchor", anchor.detach(), persistent=False)

    @property
    def distribution(self) -> Any:
        """The distribution with the tensors as they are now."""
        if self.module is not None:
            return self.module
        key = self._key()
        if self._cached is None or self._cached[0] != key:
            tensors = {path: getattr(self, name) for path, name in self._names.items()}
            self._cached = (key, _rebuilt(self._template, tensors))
        return self._cached[1]

    def detached(self) -> Any:
        """The distribution as it is now, without a graph."""
        if self.module is not None:
            return self.module
        return _rebuilt(self._template, {p: getattr(self, n).detach() for p, n in self._names.items()})

    @property
    def like(self) -> Tensor:
        """A tensor of the base's dtype and device."""
        for tensor in [*self.parameters(), *self.buffers()]:
            if tensor.is_floating_point():
                return tensor
        return torch.zeros(())

    @property
    def has_rsample(self) -> bool:
        """Whether draws carry the gradients that there are: they need to only when the base is trained."""
        return bool(self.distribution.has_rsample) or not self.trainable

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of points ``(..., d)``; ``-inf``, with gradient zero, outside the support."""
        distribution = self.distribution
        if self.module is not None:
            return self.module.log_prob(z)
        inside = _inside(distribution, z)
        if inside is None:
            return distribution.log_prob(z)
        safe = torch.where(inside.unsqueeze(-1), z, self.anchor.to(z))
        return torch.where(inside, distribution.log_prob(safe), -torch.inf)

    def log_prob_columns(self, z: Tensor) -> Tensor | None:
        """Log-density of every coordinate by itself, shape ``(batch, d)``, where they are independent; else None."""
        distribution = self.distribution
        if isinstance(distribution, Independent) and distribution.reinterpreted_batch_ndims == 1:
            return distribution.base_dist.log_prob(z)
        columns = getattr(distribution, "log_prob_columns", None)
        return None if columns is None else columns(z)

    def sample(self, shape: torch.Size, generator: torch.Generator | None, sobol: bool = False) -> Tensor:
        """Draws without a graph, shape ``(*shape, d)``."""
        with torch.no_grad():
            return draw(self.distribution, shape, generator, sobol=sobol)

    def rsample(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """Draws, differentiable in what of the base is trained."""
        if not self.trainable:
            return self.sample(shape, generator)
        return draw(self.distribution, shape, generator, reparameterised=True)

    def _key(self) -> tuple[object, ...]:
        tensors = [getattr(self, name) for name in self._names.values()]
        graph = self.trainable and torch.is_grad_enabled()
        return (graph, *((t.data_ptr(), t._version, t.dtype, t.device) for t in tensors))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_cached": None}


def draw(
    distribution: Any,
    shape: torch.Size,
    generator: torch.Generator | None,
    *,
    sobol: bool = False,
    reparameterised: bool = False,
) -> Tensor:
    """Draws of any distribution from a generator; those of torch have none of their own.

    Raises:
        ValueError: quasi-Monte Carlo points of a distribution that has no known transport.
    """
    method = distribution.rsample if reparameterised else distribution.sample
    accepted = inspect.signature(method).parameters
    if "generator" in accepted and (not sobol or "sobol" in accepted):
        return method(shape, generator=generator, **({"sobol": True} if sobol else {}))
    if sobol:
        return _from_normal(distribution, _normal_sobol(distribution, shape, generator))
    if generator is None:
        return method(shape)
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    devices = [generator.device] if generator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        return method(shape)


def _normal_sobol(distribution: Any, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else "cpu"
    seed = int(torch.randint(2**31, (), generator=generator, device=device))
    engine = torch.quasirandom.SobolEngine(int(distribution.event_shape[0]), scramble=True, seed=seed)
    like = next((t for t in _tensors(distribution).values() if t.is_floating_point()), torch.zeros(()))
    tiny = torch.finfo(like.dtype).eps
    u = engine.draw(shape.numel(), dtype=like.dtype).clamp(tiny, 1 - tiny).to(like.device)
    return torch.special.ndtri(u).view(*shape, -1)


def _from_normal(distribution: Any, noise: Tensor) -> Tensor:
    if isinstance(distribution, MultivariateNormal):
        return distribution.loc + noise @ distribution._unbroadcasted_scale_tril.mT
    if isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal):
        return distribution.base_dist.loc + noise * distribution.base_dist.scale
    raise ValueError(
        f"sample: expected a base with a transport for sobol=True (TTDensity or a normal one); got "
        f"{type(distribution).__name__}. Draw with sobol=False."
    )


def _check(distribution: Any, trainable: bool) -> None:
    if not (
        hasattr(distribution, "log_prob") and hasattr(distribution, "sample") and hasattr(distribution, "event_shape")
    ):
        raise TypeError(
            f"Flow: expected a distribution as base; got {type(distribution).__name__}. Pass a TTDensity or one of torch's."
        )
    if len(distribution.event_shape) != 1 or tuple(distribution.batch_shape):
        raise ValueError(
            f"Flow: expected a base over vectors, without a batch; got event shape {tuple(distribution.event_shape)} and "
            f"batch shape {tuple(distribution.batch_shape)}. Wrap it: torch.distributions.Independent(base, 1)."
        )
    if trainable and not isinstance(distribution, TTDensity | nn.Module):
        raise TypeError(
            f"Flow: expected a TTDensity or a module as base to train; got {type(distribution).__name__}. "
            "Leave train_base=False."
        )


def _inside(distribution: Distribution, z: Tensor) -> Tensor | None:
    """Which points lie in the support; ``None`` where all of them do, or it is not known."""
    try:
        support = distribution.support
    except (NotImplementedError, AttributeError):
        return None
    plain = support.base_constraint if isinstance(support, constraints.independent) else support
    if support is None or plain is constraints.real or isinstance(plain, type(constraints.real)):
        return None
    inside: Tensor = support.check(z)
    return inside.all(-1) if inside.shape == z.shape and z.dim() else inside


# -- the tensors of a distribution -------------------------------------------------------------------------------------


def _tensors(value: Any, prefix: str = "") -> dict[str, Tensor]:
    """Every tensor in a distribution, by path."""
    found: dict[str, Tensor] = {}
    for path, part in _parts(value):
        name = f"{prefix}{path}"
        if isinstance(part, Tensor):
            found[name] = part
        else:
            found |= _tensors(part, f"{name}.")
    return found


def _parts(value: Any) -> list[tuple[str, Any]]:
    """What of a value holds tensors, by name."""
    if isinstance(value, TTDensity):
        return list(value.state_dict().items())
    if isinstance(value, Distribution | Transform):  # an inverse refers back, a cached pair is stale after a move
        left_out = {"_inv", "_cached_x_y", *_derived(value)}
        items: Any = [(k, v) for k, v in vars(value).items() if k not in left_out]
    elif isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, Sequence) and not isinstance(value, str | torch.Size):
        items = enumerate(value)
    else:
        items = ()
    kinds = (Tensor, Distribution, Transform, list, tuple, dict)
    return [(str(k), v) for k, v in items if isinstance(v, kinds) and not isinstance(v, torch.Size)]


def _derived(value: Any) -> list[str]:
    """Names of what was computed once and follows from the rest."""
    return [name for name in vars(value) if isinstance(getattr(type(value), name, None), cached_property)]


def _rebuilt(value: Any, tensors: Mapping[str, Tensor], prefix: str = "") -> Any:
    """The same value with other tensors."""
    if isinstance(value, Tensor):
        return tensors[prefix.removesuffix(".")]
    if isinstance(value, TTDensity):
        count = len(value.train.cores)
        train = TensorTrain([tensors[f"{prefix}cores.{k}"] for k in range(count)], tensors[f"{prefix}log_scale"])
        # The gauge is not known any more: tensors may have been trained or loaded.
        square = SquaredTrain(train, value._square.bases, False)
        density = TTDensity._make(square, tensors[f"{prefix}log_share"], value.batch_shape)
        density.info = value.info
        return density
    parts = {path: _rebuilt(part, tensors, f"{prefix}{path}.") for path, part in _parts(value)}
    if isinstance(value, Distribution | Transform):
        new = copy.copy(value)
        new.__dict__.update(parts)
        for name in _derived(new):
            del new.__dict__[name]
        if isinstance(new, Transform):
            new._inv, new._cached_x_y = None, (None, None)
        return new
    if isinstance(value, Mapping):
        return {key: parts.get(str(key), part) for key, part in value.items()}
    items = [parts.get(str(k), part) for k, part in enumerate(value)]
    return items if isinstance(value, list) else tuple(items)
