"""Flows of other libraries on a Gaussian base, trained for given CPU seconds: normflows and zuko."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

LAYERS, HIDDEN, BINS, BOUND, RATE, CLIP = 4, 128, 8, 5.0, 3e-3, 10.0
PEERS = ("normflows-realnvp", "normflows-spline", "zuko-realnvp", "zuko-spline")


class OnGaussian:
    """x = μ + L u, with u from a library's flow of the standard normal: log_prob and sample.

    Args:
        gaussian: μ and L.
        density: log-density of u.
        draw: u and its log-density.
    """

    def __init__(
        self,
        gaussian: MultivariateNormal,
        density: Callable[[Tensor], Tensor],
        draw: Callable[[int], tuple[Tensor, Tensor]],
    ) -> None:
        self.loc, self.factor = gaussian.loc, gaussian.scale_tril
        self.log_volume = self.factor.diagonal().log().sum()
        self.density, self.draw = density, draw

    def log_prob(self, x: Tensor) -> Tensor:
        """(n, d) -> (n,)."""
        u = torch.linalg.solve_triangular(self.factor, (x - self.loc).T, upper=False).T
        return self.density(u.float()).double() - self.log_volume

    def pairs(self, count: int) -> tuple[Tensor, Tensor]:
        """Draws with their log-densities, differentiable."""
        u, log_prob = self.draw(count)
        return self.loc + u.double() @ self.factor.T, log_prob.double() - self.log_volume

    def sample(self, shape: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
        """Draws; the libraries take torch's own generator."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            return self.pairs(shape[0])[0]


def train_peer(
    method: str,
    gaussian: MultivariateNormal,
    log_density: Callable[[Tensor], Tensor],
    seconds: float,
    batch: int,
    seed: int,
) -> tuple[OnGaussian, int, list[tuple[int, float]]]:
    """The reverse divergence by Adam, in float32, as the libraries' documentation does it.

    Returns:
        The flow, the evaluations, and (step, bound of the batches since) some forty times.
    """
    torch.manual_seed(seed)
    parameters, density, draw = (_normflows if method.startswith("normflows") else _zuko)(method, len(gaussian.loc))
    flow = OnGaussian(gaussian, density, draw)
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    start, step, bounds = time.process_time(), 0, []
    seen: list[tuple[int, float]] = []
    while (elapsed := time.process_time() - start) < seconds:
        for group in optimizer.param_groups:  # falls to zero with the time that is left
            group["lr"] = RATE * min(1.0, (step + 1) / 15) * max(0.01, 1 - elapsed / seconds)
        x, log_q = flow.pairs(batch)
        terms = log_q - log_density(x)
        usable = torch.isfinite(terms)
        loss = terms[usable].mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        if bool(torch.isfinite(norm)):
            optimizer.step()
        bounds.append(-float(loss.detach()))
        step += 1
        if elapsed >= len(seen) * seconds / 40:
            seen.append((step, sum(bounds) / len(bounds)))
            bounds = []
    return flow, step * batch, seen


def _normflows(method: str, dim: int) -> tuple[list[Any], Any, Any]:
    """Couplings that start near the identity, with shuffles between them."""
    import normflows as nf

    layers: list[Any] = []
    for _ in range(LAYERS):
        if method.endswith("realnvp"):
            widths = [(dim + 1) // 2, HIDDEN, HIDDEN, 2 * (dim - (dim + 1) // 2)]
            layers.append(nf.flows.AffineCouplingBlock(nf.nets.MLP(widths, init_zeros=True)))
        else:
            layers.append(nf.flows.CoupledRationalQuadraticSpline(dim, 1, HIDDEN, num_bins=BINS, tail_bound=BOUND))
        layers.append(nf.flows.Permute(dim, mode="shuffle"))
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(dim, trainable=False), layers)
    return list(model.parameters()), model.log_prob, model.sample


def _zuko(method: str, dim: int) -> tuple[list[Any], Any, Any]:
    """The flows of its catalogue, as couplings."""
    import zuko

    if method.endswith("realnvp"):
        flow = zuko.flows.RealNVP(dim, transforms=LAYERS, hidden_features=(HIDDEN,))
    else:
        flow = zuko.flows.NSF(dim, bins=BINS, passes=2, transforms=LAYERS, hidden_features=(HIDDEN,))

    def draw(count: int) -> tuple[Tensor, Tensor]:
        return flow().rsample_and_log_prob(torch.Size([count]))

    return list(flow.parameters()), lambda u: flow().log_prob(u), draw
