"""A flow: a base distribution pushed through transforms, a module and a distribution at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from ..records import register
from ..tt.arguments import check_columns
from .base import Base
from .transform import Transform, from_spec

__all__ = ["Flow"]


@register("flow")
class Flow(nn.Module, Distribution):
    r"""The distribution of :math:`x = F(z)`, :math:`z` drawn from a base, :math:`F = T_L \circ \dots \circ T_1`.

    .. math:: \log q(x) = \log q_0(z) - \sum_l \log \lvert \det T_l'(z_l) \rvert, \qquad z = F^{-1}(x)

    Transforms that start as the identity leave the base exactly as it was. A module (``to``, ``state_dict``, parameters)
    and a distribution (``log_prob``, ``sample``) in one.

    Args:
        base: over vectors of ``d`` coordinates: a :class:`~ttvi.tt.TTDensity`, any distribution of torch, or a flow. Its
            tensors become buffers, copies of the ones given.
        transforms: from the base to the outside; none is the identity.
        context_dim: number of conditioning values, where no transform says it.
        train_base: make the cores of a TTDensity, or the parameters of a base that is a module, parameters.

    Raises:
        TypeError: the base is no distribution, or a transform is none.
        ValueError: dimensions or contexts of base and transforms differ.

    References:
        Rezende, Mohamed: Variational inference with normalizing flows (2015).
        Khoo, Lindsey, Zhao: Tensorizing flows: a tool for variational inference (2023).

    >>> from torch.distributions import Independent, Normal
    >>> base = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    >>> flow = Flow(base)
    >>> x = flow.sample((3,), generator=torch.Generator().manual_seed(0))
    >>> bool((flow.log_prob(x) == base.log_prob(x)).all())
    True
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    context_loc: Tensor
    context_scale: Tensor
    info: Any = None
    """The :class:`FlowInfo` of the fit that made the flow."""

    def __init__(
        self,
        base: Any,
        transforms: Sequence[Transform] = (),
        *,
        context_dim: int | None = None,
        train_base: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        self.base_module = Base(base, trainable=train_base)
        dim = self.base_module.dim
        self.context_dim = _check_transforms(transforms, dim, context_dim)
        self.transforms = nn.ModuleList(transforms)
        like = self.base_module.like
        self.register_buffer("context_loc", like.new_zeros(self.context_dim))
        self.register_buffer("context_scale", like.new_ones(self.context_dim))
        Distribution.__init__(self, torch.Size(), torch.Size([dim]), validate_args=False)

    # -- description -----------------------------------------------------------------------------------------------

    @property
    def base(self) -> Any:
        """The base distribution, with its tensors as they are now."""
        return self.base_module.distribution

    @property
    def _layers(self) -> list[Transform]:
        return [cast(Transform, module) for module in self.transforms]

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.base_module.dim

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the base, of draws and of log-densities; transforms may compute in another."""
        return self.base_module.like.dtype

    @property
    def device(self) -> torch.device:
        """Device."""
        return self.base_module.like.device

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether :meth:`rsample` carries the gradients of everything that is trained."""
        return self.base_module.has_rsample

    @property
    def support(self) -> constraints.Constraint:
        """That of the base without transforms; else all real vectors (transforms may leave a box)."""
        if not len(self.transforms):
            return self.base.support
        return constraints.real_vector

    def extra_repr(self) -> str:
        """One line of what there is."""
        return f"dim={self.dim}, context_dim={self.context_dim}, base={type(self.base).__name__}"

    def __repr__(self) -> str:
        return nn.Module.__repr__(self)

    # -- the map ---------------------------------------------------------------------------------------------------

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""From the base to the outside.

        Args:
            z: shape ``(..., d)``.
            context: shape ``(..., c)``, broadcast against ``z``.

        Returns:
            ``x`` of the same shape, and :math:`\log \lvert \det F'(z) \rvert` of shape ``(...)``.
        """
        return self._through(z, context, inverse=False)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""From the outside to the base: ``z`` and :math:`\log \lvert \det (F^{-1})'(x) \rvert`; arguments as in :meth:`forward`."""
        return self._through(x, context, inverse=True)

    def carry(self, z: Tensor, score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""`forward`, and the gradient in ``x`` of the flow's own log-density, from that of the base at ``z``.

        Args:
            z: shape ``(batch, d)``.
            score: :math:`\nabla \log q_0(z)`, shape ``(batch, d)``.

        Returns:
            ``x``, the log-determinant, and :math:`\nabla \log q(x)`, which carries no gradient.
        """
        u = start = z.to(next((p.dtype for p in self.transforms.parameters()), z.dtype))
        total, carried = u.new_zeros(len(u)), score.to(u.dtype)
        for transform in self._layers:
            u, log_det, carried = transform.carry(u, carried)
            total = total + log_det
        moved = u if u.dtype == z.dtype else z + (u - start).to(z.dtype)
        return moved, total.to(z.dtype), carried.to(z.dtype)

    def _through(self, points: Tensor, context: Tensor | None, *, inverse: bool) -> tuple[Tensor, Tensor]:
        points = check_columns(points, self.dim, "Flow")
        shape = points.shape[:-1]
        if self.context_dim:
            context = self._context(context)
            shape = torch.broadcast_shapes(shape, context.shape[:-1])
            context = context.expand(*shape, self.context_dim).reshape(-1, self.context_dim)
        else:
            context = None
        points = points.expand(*shape, self.dim)
        if not len(self.transforms):
            return points, torch.zeros_like(points[..., 0])
        points = points.reshape(-1, self.dim)
        compute = next((p.dtype for p in self.transforms.parameters()), points.dtype)
        start = u = points.to(compute)
        context = None if context is None else context.to(compute)
        total = u.new_zeros(len(u))
        layers = self._layers
        for transform in layers[::-1] if inverse else layers:
            u, log_det = transform.inverse(u, context) if inverse else transform(u, context)
            total = total + log_det
        # With transforms in lower precision than the base, the identity still is exact.
        moved = u if compute == points.dtype else points + (u - start).to(points.dtype)
        return moved.view(*shape, self.dim), total.to(points.dtype).view(shape)

    def _context(self, context: Tensor | None) -> Tensor:
        if context is None:
            raise ValueError(
                f"Flow: expected a context of shape (..., {self.context_dim}); got None. "
                "Pass context=, the values that the flow is conditioned on."
            )
        context = check_columns(context, self.context_dim, "Flow").to(device=self.device, dtype=self.dtype)
        return (context - self.context_loc) / self.context_scale

    def _standardise_context(self, loc: Tensor, scale: Tensor) -> None:
        """What the networks see as zero and one of each conditioning value."""
        self.context_loc.copy_(loc)
        self.context_scale.copy_(scale)

    # -- distribution ------------------------------------------------------------------------------------------------

    def log_prob(self, value: Tensor, context: Tensor | None = None) -> Tensor:
        """The normalised log-density; ``-inf`` where the point comes from outside the support of the base.

        Args:
            value: shape ``(..., d)``.
            context: shape ``(..., c)``, broadcast against ``value``.

        Returns:
            Shape ``(...)``, differentiable in the point, the context and the parameters.
        """
        value = value.to(dtype=self.dtype, device=self.device) if isinstance(value, Tensor) else value
        z, log_det = self.inverse(value, context)
        return self.base_module.log_prob(z) + log_det

    def sample(
        self,
        sample_shape: Sequence[int] | torch.Size = torch.Size(),  # noqa: B008  (the signature of torch)
        *,
        generator: torch.Generator | None = None,
        context: Tensor | None = None,
        sobol: bool = False,
    ) -> Tensor:
        """Independent exact draws, or scrambled Sobol points pushed through base and transforms.

        Args:
            sample_shape: leading shape of the result.
            generator: source of randomness.
            context: shape ``(*batch, c)``: that many conditional distributions at once.
            sobol: quasi-Monte Carlo, where the base has it.

        Returns:
            Shape ``(*sample_shape, *batch, d)``.
        """
        with torch.no_grad():
            z = self.base_module.sample(self._draws(sample_shape, context), generator, sobol)
            return self.forward(z, context)[0]

    def rsample(
        self,
        sample_shape: Sequence[int] | torch.Size = torch.Size(),  # noqa: B008
        *,
        generator: torch.Generator | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """Draws that are differentiable in the parameters and the context; arguments as in :meth:`sample`."""
        z = self.base_module.rsample(self._draws(sample_shape, context), generator)
        return self.forward(z, context)[0]

    def sample_and_log_prob(
        self,
        sample_shape: Sequence[int] | torch.Size = torch.Size(),  # noqa: B008
        *,
        generator: torch.Generator | None = None,
        context: Tensor | None = None,
        sobol: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Draws with their log-densities, without inverting anything: :meth:`sample` and :meth:`log_prob` in one pass."""
        with torch.no_grad():
            z = self.base_module.sample(self._draws(sample_shape, context), generator, sobol)
            x, log_det = self.forward(z, context)
            return x, self.base_module.log_prob(z) - log_det

    def _draws(self, sample_shape: Sequence[int] | torch.Size, context: Tensor | None) -> torch.Size:
        shape = torch.Size(sample_shape)
        return shape + self._context(context).shape[:-1] if self.context_dim else shape

    # -- keeping -----------------------------------------------------------------------------------------------------

    def _to_record(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """What saving needs: a JSON description, tensors by name, and the base, which is saved by its own kind."""
        spec = {"transforms": [transform.spec() for transform in self._layers], "context_dim": self.context_dim}
        tensors = {f"transforms.{name}": value.detach() for name, value in self.transforms.state_dict().items()}
        tensors |= {"context_loc": self.context_loc, "context_scale": self.context_scale}
        return spec, tensors, {"base": self.base_module.detached()}

    @classmethod
    def _from_record(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], children: Mapping[str, Any]) -> Flow:
        """The inverse of :meth:`_to_record`."""
        start = "transforms."
        state = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
        dtype = next((tensor.dtype for tensor in state.values() if tensor.is_floating_point()), torch.float64)
        flow = cls(
            children["base"],
            [from_spec(part, dtype=dtype) for part in spec["transforms"]],
            context_dim=spec["context_dim"],
        )
        flow.transforms.load_state_dict(state)
        flow._standardise_context(tensors["context_loc"], tensors["context_scale"])
        flow.transforms.to(flow.device)
        return flow


def _check_transforms(transforms: Sequence[Transform], dim: int, context_dim: int | None) -> int:
    for transform in transforms:
        if not isinstance(transform, Transform):
            raise TypeError(
                f"Flow: expected transforms of ttvi.flow; got {type(transform).__name__}. "
                "Build them with default_transforms(dim)."
            )
        if transform.dim != dim:
            raise ValueError(
                f"Flow: expected transforms of dimension {dim}, that of the base; got {transform.dim}. Build them with dim={dim}."
            )
    contexts = {transform.context_dim for transform in transforms} - {0}
    contexts |= {context_dim} - {None, 0}  # type: ignore[arg-type]
    if len(contexts) > 1:
        raise ValueError(
            f"Flow: expected transforms of one context dimension; got {sorted(contexts)}. Give all the same context_dim."
        )
    return contexts.pop() if contexts else 0
