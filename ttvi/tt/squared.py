"""The square of a functional tensor train as a density: evaluation, exact draws, marginals, conditionals, moments."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .algebra import log_inner, unit_scale
from .basis import Basis
from .canonical import orthogonalize
from .contraction import contract
from .train import TensorTrain

__all__ = ["SquaredTrain"]

BLOCK = 1 << 19  # entries of the largest temporary on a CPU: what stays in the caches


@dataclass(frozen=True)
class SquaredTrain:
    r"""The unnormalised density :math:`g(x)^2` summed over latent modes.

    A mode with a basis is a coordinate; a mode with ``None`` is *latent*: a marginalised coordinate, whose index is
    summed over in the square. That keeps every marginal and conditional in the same form.

    Attributes:
        train: coefficients; cores ``(r, n, s)``, or ``(B, r, n, s)`` for a batch of densities.
        bases: one per mode, ``None`` for latent modes. The last mode is a coordinate.
        canonical: whether all cores but the first have orthonormal rows, so that modes to the right integrate to one.
    """

    train: TensorTrain
    bases: tuple[Basis | None, ...]
    canonical: bool = False

    @property
    def coordinates(self) -> list[int]:
        """Modes that are coordinates."""
        return [k for k, basis in enumerate(self.bases) if basis is not None]

    def canonicalized(self) -> SquaredTrain:
        """The same density, right-orthogonal."""
        return self if self.canonical else SquaredTrain(orthogonalize(self.train), self.bases, True)

    def block(self, batch: int) -> int:
        """How many points per member of the batch to carry along at once."""
        _settle_allocator()
        widest = max(core.shape[-2] * core.shape[-1] for core in self.train.cores)
        if any(basis is None for basis in self.bases):
            widest = max(core.shape[-3] * core.shape[-2] * core.shape[-1] for core in self.train.cores)
        return max(1, BLOCK // (widest * batch))

    def log_norm(self) -> Tensor:
        r"""Logarithm of :math:`\int g^2`, one per member of the batch; differentiable in any gauge."""
        if self.canonical and not any(core.requires_grad for core in self.train.cores):
            value, log = unit_scale(self.train.cores[0], (-3, -2, -1))
            return torch.log(value.square().sum((-3, -2, -1))) + 2 * (log + self.train.log_scale)
        value, log = log_inner(self.train, self.train)
        return torch.log(value) + log

    # -- evaluation ------------------------------------------------------------------------------------------------

    def log_square(self, x: Tensor) -> Tensor:
        r"""Logarithm of the unnormalised density at ``x`` of shape ``(S, B, coordinates)``: shape ``(S, B)``."""
        state, logs = PrefixState.start(self, x.shape[:2]), x.new_zeros(x.shape[:2])
        column = 0
        for core, basis in zip(self.train.cores, self.bases, strict=True):
            if basis is None:
                state = state.trace(core)
            else:
                state = state.absorb(core, basis(x[..., column]))
                column += 1
            state, log = state.scaled()
            logs = logs + log
        mass = state.mass()
        positive = (
            mass > torch.finfo(mass.dtype).tiny
        )  # where a Hermite tail underflows, the gradient is zero rather than NaN
        return (
            torch.where(positive, torch.log(torch.where(positive, mass, 1.0)), -torch.inf)
            + logs
            + 2 * self.train.log_scale
        )

    def log_square_grid(self, grids: Sequence[Tensor]) -> Tensor:
        """Logarithm of the unnormalised density on a product grid: shape ``(g_1, ..., g_m)``; unbatched trains.

        Everything but the last coordinate is evaluated per grid line, not per grid point, and the last is one matrix
        product: a picture of a two-dimensional marginal costs little more than two of one-dimensional ones.

        Args:
            grids: one vector of values per coordinate, shapes ``(g_k,)``.
        """
        square = self.canonicalized()
        state = square.train.cores[0].new_ones(1, 1, 1)  # (grid points so far, r, r)
        logs = 2 * square.train.log_scale
        last = square.coordinates[-1]
        position = 0
        for k, (core, basis) in enumerate(zip(square.train.cores[: last + 1], square.bases, strict=False)):
            if basis is None:
                state = _transfer(state, core, core)
            else:
                matrices = torch.einsum("rns,gn->grs", core, basis(grids[position]))
                position += 1
                if k == last:  # what follows integrates to one
                    value = state.flatten(1) @ (matrices @ matrices.mT).flatten(1).T
                    return torch.log(value.clamp_min(0)).view([len(grid) for grid in grids]) + logs
                state = (matrices.mT @ state.unsqueeze(1) @ matrices).flatten(0, 1)
            state, log = unit_scale(state, (-2, -1))
            logs = logs + log.amax()
            state = state * (log - log.amax()).exp()[:, None, None]
        raise AssertionError("there is always a last coordinate")

    # -- exact draws -----------------------------------------------------------------------------------------------

    def sample(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Independent draws, shape ``(count, B, coordinates)``; the train must be canonical."""
        batch = self.train.batch_shape.numel()
        block = self.block(batch) if self.train.device.type == "cpu" else max(1, count)
        parts = [self._sample_block(min(block, count - i), batch, generator) for i in range(0, count, block)]
        return torch.cat(parts) if parts else self.train.cores[0].new_zeros(0, batch, len(self.coordinates))

    def _sample_block(self, count: int, batch: int, generator: torch.Generator | None) -> Tensor:
        rows = count * batch
        state = self.train.cores[0].new_ones(rows, 1)
        u = torch.rand(2, len(self.bases), rows, dtype=state.dtype, device=state.device, generator=generator)
        columns = []
        for k, (core, basis) in enumerate(zip(self.train.cores, self.bases, strict=True)):
            s = core.shape[-1]
            options = fiber_columns(state.view(count, batch, -1), core).flatten(0, 1)  # (rows, s, n)
            if basis is None:
                node = _categorical(options.square().sum(1), u[0, k])
                state = options.gather(2, node[:, None, None].expand(-1, s, 1)).squeeze(2)
            else:
                # A sum of squares is a mixture: draw the square first, then from one square alone.
                part = (
                    _categorical(torch.linalg.vector_norm(options, dim=2).square(), u[0, k])
                    if s > 1
                    else state.new_zeros(rows, dtype=torch.long)
                )
                square = options[torch.arange(rows, device=state.device), part].unsqueeze(2)
                x = basis.square_integral(square).inverse(u[1, k])
                columns.append(x)
                state = basis.interpolate(x, options.transpose(1, 2))
            state = state / state.norm(dim=1, keepdim=True).clamp_min(torch.finfo(state.dtype).tiny)
        return torch.stack(columns, -1).view(count, batch, -1)

    # -- marginals and conditionals --------------------------------------------------------------------------------

    def marginal(self, keep: Sequence[int]) -> SquaredTrain:
        """Only the coordinates at positions ``keep`` (ascending) remain; the others become latent modes."""
        kept = {self.coordinates[i] for i in keep}
        canonical = self.canonicalized()
        last = max(kept) + 1  # modes to the right integrate to one
        bases = [basis if k in kept else None for k, basis in enumerate(self.bases[:last])]
        cores = list(canonical.train.cores[:last])
        if cores[-1].shape[-1] > 1:  # the open rank of the cut is one more summed index, carried by a latent mode
            r = cores[-1].shape[-1]
            cores.append(torch.eye(r, dtype=cores[0].dtype, device=cores[0].device).unsqueeze(-1))
            bases.append(None)
        return SquaredTrain(TensorTrain(cores, canonical.train.log_scale), tuple(bases), True).compressed()

    def compressed(self) -> SquaredTrain:
        """Latent modes with no more entries than they need: at most ``r s`` each, by a QR of their index."""
        cores = []
        for core, basis in zip(self.train.cores, self.bases, strict=True):
            r, n, s = core.shape[-3:]
            if basis is None and n > r * s and not core.requires_grad:  # R alone has no derivative
                flat = core.transpose(-3, -2).flatten(-2)  # (n, r s)
                core = torch.linalg.qr(flat, mode="r").R.unflatten(-1, (r, s)).transpose(-3, -2)
            cores.append(core)
        return SquaredTrain(TensorTrain(cores, self.train.log_scale), self.bases, self.canonical)

    def condition(self, values: dict[int, Tensor]) -> SquaredTrain:
        """Coordinates at the positions of ``values`` are fixed, tensors of shape ``(B,)``; the others remain."""
        fixed = {self.coordinates[i]: value for i, value in values.items()}
        cores: list[Tensor] = []
        bases: list[Basis | None] = []
        logs = self.train.log_scale
        pending: Tensor | None = None
        touched = False  # whether something was absorbed into a core other than the first that remains
        for k, (core, basis) in enumerate(zip(self.train.cores, self.bases, strict=True)):
            if k in fixed:
                assert basis is not None
                matrix = torch.einsum("...rns,...n->...rs", core, basis(fixed[k]))
                pending = matrix if pending is None else pending @ matrix
                pending, log = unit_scale(pending, (-2, -1))
                logs = logs + log
                continue
            if pending is not None:
                core = (pending @ core.flatten(-2)).unflatten(-1, core.shape[-2:])
                touched |= bool(cores)
                pending = None
            cores.append(core)
            bases.append(basis)
        if pending is not None:
            last = cores[-1]
            cores[-1] = (last.flatten(-3, -2) @ pending).unflatten(-2, last.shape[-3:-1])
            touched |= len(cores) > 1
        return SquaredTrain(TensorTrain(cores, logs), tuple(bases), self.canonical and not touched)

    # -- moments ---------------------------------------------------------------------------------------------------

    def moments(self) -> tuple[Tensor, Tensor]:
        r"""First moments ``(B, m)`` and the matrix :math:`E[x_i x_j]` ``(B, m, m)`` of the normalised density.

        Cost O(m² · n · r³), all pairs carried along in one pass over the modes.
        """
        train = self.canonicalized().train
        eye = train.cores[0].new_ones(1, 1, 1)
        stack = eye  # (1 + i, B?, r, r): the plain left environment, then one with each earlier coordinate inserted
        scale = _norm2(train.cores[0])
        firsts: list[Tensor] = []
        rows: list[Tensor] = []
        stack = stack.unsqueeze(0)
        for core, basis in zip(train.cores, self.bases, strict=True):
            new = []
            if basis is not None:
                x1, x2 = (basis.multiplication(p).to(core) for p in (1, 2))
                once = _transfer(stack, core, torch.einsum("nm,...rms->...rns", x1, core))
                twice = _transfer(stack[:1], core, torch.einsum("nm,...rms->...rns", x2, core))
                traces = torch.cat([once, twice]).diagonal(dim1=-2, dim2=-1).sum(-1) / scale
                firsts.append(traces[0])
                rows.append(traces[1:])
                new = [once[:1]]
            stack = torch.cat([_transfer(stack, core, core), *new])
        mean = torch.stack([f.expand(scale.shape) for f in firsts], -1)
        m = len(firsts)
        second = mean.new_zeros(*scale.shape, m, m)
        for j, row in enumerate(rows):
            entries = row.movedim(0, -1).expand(*scale.shape, j + 1)
            second[..., : j + 1, j], second[..., j, : j + 1] = entries, entries
        return mean, second


@functools.cache
def _settle_allocator() -> None:
    """Once per process: have the C allocator keep temporaries of the size of a block instead of handing them back.

    glibc returns freed memory to the system above a threshold that follows the largest block freed so far (mallopt(3));
    below it, every mode of a walk along the train would fault its temporaries in again, at several times their price.
    """
    torch.empty((1 << 25) - (1 << 16), dtype=torch.uint8)


def fiber_columns(state: Tensor, core: Tensor) -> Tensor:
    """Prefix vectors times a core, ``(S, B, r)`` to ``(S, B, s, n)``: the coefficients of ``s`` functions, each contiguous."""
    n, s = core.shape[-2:]
    table = core.transpose(-1, -2).flatten(-2)  # copied: what follows reads it many times, along n
    result = state @ table if core.dim() == 3 else (state.unsqueeze(-2) @ table).squeeze(-2)
    return result.unflatten(-1, (s, n))


def _norm2(core: Tensor) -> Tensor:
    return core.square().sum((-3, -2, -1)).reshape(-1)


def _transfer(stack: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Left environments moved past one mode: (..., r, r) to (..., s, s), two matrix products per node."""
    half = stack.unsqueeze(-3) @ right.transpose(-3, -2)  # (..., n, r, s)
    return left.flatten(-3, -2).mT @ half.transpose(-3, -2).flatten(-3, -2)


def _categorical(masses: Tensor, u: Tensor) -> Tensor:
    """One index per row with probability proportional to its mass, by inversion of ``u``."""
    ends = masses.cumsum(1)
    index = torch.searchsorted(ends, (u * ends[:, -1]).unsqueeze(1), right=True).squeeze(1)
    return index.clamp_(max=masses.shape[1] - 1)


@dataclass(frozen=True)
class PrefixState:
    """What a prefix of the modes leaves behind, for every point: a vector, or after a latent mode a matrix.

    Attributes:
        value: ``(S, B, r)`` for a pure state, ``(S, B, r, r)`` for a mixed one.
    """

    value: Tensor
    mixed: bool

    @classmethod
    def start(cls, density: SquaredTrain, shape: torch.Size | tuple[int, int]) -> PrefixState:
        """The empty prefix."""
        return cls(density.train.cores[0].new_ones(*shape, 1), False)

    def absorb(self, core: Tensor, vector: Tensor) -> PrefixState:
        """Past a coordinate, evaluated: ``vector`` holds its basis functions, shape ``(S, B, n)``."""
        index = "rns" if core.dim() == 3 else "brns"
        if not self.mixed:
            return PrefixState((fiber_columns(self.value, core) * vector.unsqueeze(-2)).sum(-1), False)
        matrix = contract(f"{index},abn->abrs", core, vector)
        return PrefixState(matrix.mT @ self.value @ matrix, True)

    def trace(self, core: Tensor) -> PrefixState:
        """Past a latent mode, summed over."""
        index = "rns" if core.dim() == 3 else "brns"
        if not self.mixed:
            rows = contract(f"abr,{index}->abns", self.value, core)
            return PrefixState(rows.mT @ rows, True)
        r, n, s = core.shape[-3:]
        points = self.value.shape[0] * self.value.shape[1]
        if core.dim() == 3 and points > r * r:  # cheaper to push the r² unit matrices through, once
            units = torch.eye(r * r, dtype=core.dtype, device=core.device).unflatten(0, (r, r)).unflatten(-1, (r, r))
            images = _transfer(units.flatten(0, 1), core, core).flatten(1)
            return PrefixState((self.value.flatten(-2) @ images).unflatten(-1, (s, s)), True)
        return PrefixState(_transfer(self.value, core, core), True)

    def scaled(self) -> tuple[PrefixState, Tensor]:
        """The same state with entries of order one, and the logarithm of the *density* factor taken out."""
        value, log = unit_scale(self.value, (-2, -1) if self.mixed else -1)
        return PrefixState(value, self.mixed), log if self.mixed else 2 * log

    def mass(self) -> Tensor:
        """The summed square, shape ``(S, B)``: the marginal density of the prefix when what follows is canonical."""
        if self.mixed:
            return self.value.diagonal(dim1=-2, dim2=-1).sum(-1)
        return self.value.square().sum(-1)

    def factor(self) -> Tensor:
        """Rows whose outer products sum to the state, shape ``(S, B, m, r)``."""
        if not self.mixed:
            return self.value.unsqueeze(-2)
        r = self.value.shape[-1]
        jitter = torch.finfo(self.value.dtype).eps * 8 * self.mass()
        eye = torch.eye(r, dtype=self.value.dtype, device=self.value.device)
        return torch.linalg.cholesky(self.value + jitter[..., None, None] * eye).mT
