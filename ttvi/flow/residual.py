"""Contractive residual blocks: x = z + g(z) with a Lipschitz constant of g below one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .columns import Partition
from .conditioner import Features, Kind, Linear, as_vector, parse_kinds, seeded_generator
from .transform import Transform

__all__ = ["Residual", "spectral_bound"]

MAX_EXACT = 24  # moved coordinates up to which "auto" computes the determinant in training too
CERTAIN_TERMS = 4  # terms of the series that are always taken
SURVIVAL = 0.9  # chance of each further term; above the square of the contraction, or the variance is infinite
LIPSCHITZ_SILU = 1.1  # silu rises by at most 1.0998


def spectral_bound(weight: Tensor, *, iterations: int = 5) -> Tensor:
    """An upper bound of the largest singular value of a matrix, above it by less than 4 % for 64 columns.

    ‖W‖² = ‖G^m‖^(1/m) ≤ ‖G^m‖_F^(1/m) with G = WᵀW and m = 2^iterations: a few products of small matrices, and, unlike
    the result of a power iteration, never too small.

    Args:
        weight: shape ``(rows, columns)``.
        iterations: squarings of G.

    References:
        Delattre, Barthélemy, Araujo, Allauzen: Efficient bound of Lipschitz constant for convolutional layers by Gram
        iteration (2023)

    >>> round(spectral_bound(torch.diag(torch.tensor([3.0, 2.0]))).item(), 4)
    3.0
    """
    tiny = 1e-12  # keeps the gradient at W = 0 finite
    gram = weight @ weight.mT if weight.shape[0] < weight.shape[1] else weight.mT @ weight
    log_scale = torch.zeros((), dtype=weight.dtype, device=weight.device)
    for _ in range(iterations):
        norm = torch.linalg.matrix_norm(gram).clamp_min(tiny)
        gram = gram / norm
        gram = gram @ gram
        log_scale = 2 * (log_scale + norm.log())
    log_norm = torch.linalg.matrix_norm(gram).clamp_min(tiny).log() + log_scale
    return (log_norm * 0.5 ** (iterations + 1)).exp()


class Residual(Transform):
    """x = z + scale·g(u; rest, context) with u = (z − loc)/scale: all real coordinates move at once, freely mixed.

    Every weight matrix is divided by what its norm exceeds its share of ``contraction`` by, so that g contracts and
    z ↦ x has an inverse, found by fixed-point iteration. The Jacobian I + ∂g/∂u is a product of weights and slopes of
    the activation: its determinant is computed exactly (cost moved³ per point), or in training, where more than 24
    coordinates move, estimated without bias by the series log det(I + J) = tr J − tr J²/2 + ..., with random signs for
    the traces and a random number of terms. In evaluation mode it is always exact.

    Args:
        dim: number of coordinates.
        kinds: as in `Coupling`; intervals, circles and discrete coordinates stay and are conditioned on.
        loc: typical location per coordinate.
        scale: typical spread per coordinate: g works in these units.
        hidden: widths of the hidden layers, at least one.
        contraction: Lipschitz constant allowed to g, below one.
        log_det: ``"auto"``, ``"exact"``, or ``"stochastic"`` for the estimate in training at any size.
        context_dim: number of conditioning values.
        generator: source of the initial weights and of the estimate's randomness; a fixed seed without one.
        dtype: floating type of parameters and buffers.

    Raises:
        ValueError: no coordinate is real, or an argument does not fit.

    References:
        Behrmann et al.: Invertible residual networks (2019)
        Chen, Behrmann, Duvenaud, Jacobsen: Residual flows for invertible generative modeling (2019)

    >>> Residual(2)(torch.tensor([0.3, -0.4], dtype=torch.float64))[1].item()
    0.0
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        dim: int,
        *,
        kinds: Sequence[Kind] | None = None,
        loc: object = None,
        scale: object = None,
        hidden: Sequence[int] = (64, 64),
        contraction: float = 0.9,
        log_det: str = "auto",
        context_dim: int = 0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        parsed = parse_kinds(kinds, dim, "Residual")
        moved = [k for k, (name, _, _) in enumerate(parsed) if name == "real"]
        rest = [k for k in range(dim) if parsed[k][0] != "real"]
        if not moved or not hidden or not 0 < contraction < 1 or log_det not in ("auto", "exact", "stochastic"):
            raise ValueError(
                "Residual: expected a real coordinate, a hidden layer, `contraction` between 0 and 1 and `log_det` "
                f"'auto', 'exact' or 'stochastic'; got {len(moved)} real ones, {tuple(hidden)}, {contraction}, "
                f"{log_det!r}. Leave the transform out where nothing can move."
            )
        locs = as_vector(loc, dim, 0.0, dtype, "loc", "Residual")
        scales = as_vector(scale, dim, 1.0, dtype, "scale", "Residual")
        described = [["real"] if name == "real" else [name, lower, upper] for name, lower, upper in parsed]
        arguments = {"kinds": described, "loc": locs.tolist(), "scale": scales.tolist(), "hidden": list(hidden)}
        super().__init__(dim, context_dim, {**arguments, "contraction": contraction, "log_det": log_det})
        self.log_det = log_det
        self.num_moved = len(moved)
        self.share = contraction ** (1 / (len(hidden) + 1))
        self.partition = Partition(moved, rest)
        self.register_buffer("loc", locs[moved].clone())
        self.register_buffer("scale", scales[moved].clone())
        self.features = Features([parsed[k] for k in rest], locs[rest], scales[rest])
        generator = seeded_generator(generator)
        self.first = Linear(self.num_moved, hidden[0], generator=generator, dtype=dtype)
        given = self.features.size + self.context_dim
        self.given = Linear(given, hidden[0], generator=generator, dtype=dtype) if given else None
        pairs = zip(hidden, hidden[1:])
        self.layers = nn.ModuleList(Linear(a, b, generator=generator, dtype=dtype) for a, b in pairs)
        self.last = Linear(hidden[-1], self.num_moved, generator=None, dtype=dtype)
        # A number and a count instead of a generator: they copy, and serve any device.
        self._noise_seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        self._noise_calls = 0

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        moved, rest, given = self._split(z, context)
        weights = self._weights()
        change, slopes = self._network((moved - self.loc) / self.scale, given, weights)
        moved = torch.addcmul(moved, self.scale, change)
        stochastic = self.log_det == "stochastic" or (self.log_det == "auto" and self.num_moved > MAX_EXACT)
        log_det = (
            self._estimate(weights, slopes)
            if self.training and stochastic
            else torch.linalg.slogdet(self._jacobian(weights, slopes))[1]
        )
        return self.partition.join(moved, rest), log_det

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        moved, rest, given = self._split(x, context)
        weights = self._weights()
        target = (moved - self.loc) / self.scale
        with torch.no_grad():
            u = self._fixed_point(target, given, weights)
        # One Newton step makes the last digits right and gives u the gradient of the implicit function.
        change, slopes = self._network(u, given, weights)
        jacobian = self._jacobian(weights, slopes).detach()
        u = u - torch.linalg.solve_ex(jacobian, (u + change - target).unsqueeze(-1))[0].squeeze(-1)
        change, slopes = self._network(u, given, weights)
        moved = torch.addcmul(moved, self.scale, change, value=-1)
        log_det = -torch.linalg.slogdet(self._jacobian(weights, slopes))[1]
        return self.partition.join(moved, rest), log_det

    def _split(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Moving columns, resting columns, and what these and the context add to the first layer."""
        self._check(z, context)
        moved, rest = self.partition.split(z)
        if self.given is None:
            return moved, rest, None
        features = self.features(rest)
        if self.context_dim:
            assert context is not None
            expanded = context.to(features.dtype).expand(*features.shape[:-1], self.context_dim)
            features = torch.cat([features, expanded], -1)
        return moved, rest, self.given(features)

    def _hidden(self) -> list[Linear]:
        return [self.first, *[layer for layer in self.layers if isinstance(layer, Linear)]]

    def _weights(self) -> list[Tensor]:
        """The weight matrices, none of norm above its share."""
        weights = []
        for layer in (*self._hidden(), self.last):
            weights.append(layer.weight * (self.share / spectral_bound(layer.weight).clamp_min(self.share)))
        return weights

    def _network(self, u: Tensor, given: Tensor | None, weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """g(u) and the slope of every activation on the way."""
        slopes = []
        for i, (weight, layer) in enumerate(zip(weights, self._hidden())):
            u = F.linear(u, weight, layer.bias)
            if i == 0 and given is not None:
                u = u + given
            gate = u.sigmoid() / LIPSCHITZ_SILU
            slopes.append(gate + u * gate * (1 - LIPSCHITZ_SILU * gate))
            u = u * gate
        return F.linear(u, weights[-1], self.last.bias), slopes

    def _jacobian(self, weights: list[Tensor], slopes: list[Tensor]) -> Tensor:
        """I + ∂g/∂u, shape ``(..., moved, moved)``."""
        product = weights[0]
        for weight, slope in zip(weights[1:], slopes):
            product = weight @ (slope.unsqueeze(-1) * product)
        return product + torch.eye(self.num_moved, dtype=product.dtype, device=product.device)

    def _estimate(self, weights: list[Tensor], slopes: list[Tensor]) -> Tensor:
        """An unbiased estimate of log det(I + J): random signs v, terms vᵀJᵏv, the tail cut at random and reweighted."""
        device = slopes[0].device
        noise = torch.Generator(device).manual_seed(self._noise_seed + self._noise_calls)
        self._noise_calls += 1
        # The number of further terms is geometric: at least k of them with chance SURVIVAL^k. Drawn on the host, where
        # it is needed.
        host = torch.Generator().manual_seed(2**40 + self._noise_seed + self._noise_calls)
        uniform = 1 - torch.rand((), generator=host, dtype=torch.float64).item()
        extra = int(math.log(uniform) / math.log(SURVIVAL))
        shape = (*slopes[0].shape[:-1], self.num_moved)
        signs = torch.randint(2, shape, generator=noise, device=device).to(slopes[0].dtype) * 2 - 1
        row, total = signs, torch.zeros_like(slopes[0][..., 0])
        for k in range(1, CERTAIN_TERMS + extra + 1):
            for weight, slope in zip(weights[:0:-1], slopes[::-1]):
                row = (row @ weight) * slope
            row = row @ weights[0]
            weight_of_term = (-1) ** (k + 1) / (k * SURVIVAL ** max(k - CERTAIN_TERMS, 0))
            total = total + weight_of_term * (row * signs).sum(-1)
        return total

    def _fixed_point(
        self, target: Tensor, given: Tensor | None, weights: list[Tensor], *, max_iterations: int = 800, check: int = 8
    ) -> Tensor:
        """u with u + g(u) = target; each iteration shrinks the error by ``contraction`` at least."""
        tolerance = 8 * torch.finfo(target.dtype).eps
        u = target
        for iteration in range(max_iterations):
            previous, u = u, target - self._network(u, given, weights)[0]
            # Looking at the error stops the device, hence not every time. NaN never counts as moving.
            if iteration % check == check - 1 and not ((u - previous).abs() > tolerance * (1 + u.abs())).any():
                break
        return u
