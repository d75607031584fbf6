"""The Rosenblatt transport of a squared train: the triangular map between the unit cube and the density."""

from __future__ import annotations

import torch
from torch import Tensor

from .basis import Basis, SquareIntegral
from .contraction import contract
from .mixture import Mixture
from .squared import PrefixState, SquaredTrain

__all__ = ["block_size", "cube_to_density", "density_to_cube", "sobol_points"]

BLOCK = 1 << 22  # entries of the largest temporary of one block of points


class _Walk:
    """Conditional distributions along the modes, for the prefix absorbed so far."""

    def __init__(self, mixture: Mixture, shape: tuple[int, int]) -> None:
        self.mixture, self.shape = mixture, shape
        self.state = PrefixState.start(mixture.square, shape)
        self.pure = mixture.pure
        zeros = mixture.square.train.cores[0].new_zeros(shape)
        # log of (1 - gamma) g²(prefix) / ||g||² and of gamma rho(prefix), less a common constant
        self.log_square = zeros + torch.log1p(-mixture.log_share.exp()) - mixture.square.log_norm()
        self.log_square = self.log_square + 2 * mixture.square.train.log_scale
        self.log_prefix = zeros + torch.log1p(-mixture.log_share.exp())  # of the square's part, with all of its mass
        self.log_reference = zeros + mixture.log_share

    def share(self) -> Tensor | None:
        """Weight of the square in the next conditional, flattened; ``None`` for one."""
        if self.pure:
            return None
        return torch.sigmoid(self.log_prefix - self.log_reference).flatten()

    def integral(self, core: Tensor, basis: Basis) -> SquareIntegral:
        index = "rns" if core.dim() == 3 else "brns"
        columns = contract(f"abmr,{index}->abnms", self.state.factor(), core)
        return basis.square_integral(columns.flatten(0, 1).flatten(-2))

    def absorb(self, core: Tensor, basis: Basis, x: Tensor) -> None:
        self._move(self.state.absorb(core, basis(x)))
        self.log_reference = self.log_reference + basis.reference_log_prob(x)

    def trace(self, core: Tensor) -> None:
        self._move(self.state.trace(core))

    def _move(self, state: PrefixState) -> None:
        self.state, log = state.scaled()
        self.log_square = self.log_square + log
        self.log_prefix = self.log_square + torch.log(self.state.mass())


def density_to_cube(mixture: Mixture, x: Tensor) -> Tensor:
    r"""Conditional distribution functions, :math:`u_k = Q(x_k \mid x_{<k})`: shape ``(S, B, d)`` to the same.

    At an atom of a finite coordinate ``u`` is the middle of its jump.

    Args:
        mixture: the density; its square is canonical.
        x: points in the support.
    """
    walk = _Walk(mixture, (x.shape[0], x.shape[1]))
    columns: list[Tensor] = []
    for core, basis in zip(mixture.square.train.cores, mixture.square.bases, strict=True):
        if basis is None:
            walk.trace(core)
            continue
        point = x[..., len(columns)]
        columns.append(_level(walk.integral(core, basis), basis, walk.share(), point.flatten())[0].view_as(point))
        walk.absorb(core, basis, point)
    return torch.stack(columns, -1)


def cube_to_density(mixture: Mixture, u: Tensor) -> Tensor:
    r"""The inverse map: shape ``(S, B, d)`` in the unit cube to points of the same shape.

    The inverse is found to full precision without a graph; one Newton step of the implicit function
    :math:`Q(x; \theta) = u` then carries the gradients in ``u`` and in the cores.

    Args:
        mixture: the density; its square is canonical.
        u: levels in [0, 1].

    References:
        Figurnov, Mohamed, Mnih: Implicit reparameterization gradients (2018).
    """
    walk = _Walk(mixture, (u.shape[0], u.shape[1]))
    columns: list[Tensor] = []
    for core, basis in zip(mixture.square.train.cores, mixture.square.bases, strict=True):
        if basis is None:
            walk.trace(core)
            continue
        level = u[..., len(columns)]
        integral, share = walk.integral(core, basis), walk.share()
        x = integral.inverse(level.flatten(), share=share)
        if torch.is_grad_enabled() and not basis.discrete:
            value, slope = _level(integral, basis, share, x)
            slope = slope.detach()
            usable = slope > torch.finfo(x.dtype).tiny  # not at the ends, where a density may vanish
            step = torch.where(usable, (value - level.flatten()) / torch.where(usable, slope, 1.0), 0.0)
            x = x - (step - step.detach())
        x = x.view_as(level)
        columns.append(x)
        walk.absorb(core, basis, x)
    return torch.stack(columns, -1)


def _level(integral: SquareIntegral, basis: Basis, share: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """The conditional distribution function of the mixture and its density, at one point per row."""
    value, slope = integral.evaluate(x)
    total = integral.total.clamp_min(torch.finfo(x.dtype).tiny)
    value, slope = value / total, slope / total
    if share is None:
        return value, slope
    reference, density = basis.reference_cdf(x), basis.reference_log_prob(x).exp()
    return share * value + (1 - share) * reference, share * slope + (1 - share) * density


def block_size(square: SquaredTrain) -> int:
    """How many points to carry along at once."""
    widest = max(core.shape[-3] * core.shape[-2] * core.shape[-1] for core in square.train.cores)
    latent = any(basis is None for basis in square.bases)
    wide = max(core.shape[-2] * core.shape[-1] for core in square.train.cores)
    return max(16, BLOCK // (widest if latent else 2 * wide))


def sobol_points(shape: tuple[int, int, int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Scrambled Sobol points in the open unit cube, shape ``(S, B, d)``, of the dtype and device of ``like``."""
    count, batch, dim = shape
    device = generator.device if generator is not None else "cpu"
    seed = int(torch.randint(2**31, (), generator=generator, device=device))
    engine = torch.quasirandom.SobolEngine(batch * dim, scramble=True, seed=seed)
    tiny = torch.finfo(like.dtype).eps
    return engine.draw(count, dtype=like.dtype).clamp(tiny, 1 - tiny).to(like.device).view(shape)
