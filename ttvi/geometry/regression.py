"""One coordinate given earlier ones: a mean and a log scale by weighted least squares and Newton steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KNOTS", "ConditionalRow", "expand", "fit_row", "hinge", "shared_scales"]

MAX_PAIRS = 6
MAX_LOG_TERMS = 3
MAX_HINGES = 2
KNOTS = (-1.0, 0.0, 1.0)  # of the bent terms, in standard deviations
SIGNIFICANT = 12.0  # times log(candidates)/N, a squared correlation
SHARED = 1.0  # times log(N)/N, for scales where those of other rows depend on the same column
LIKELY = 2.0  # likewise for products of it with columns of the mean, and for bends of the strongest of these
MOST_BENT = 2
TOGETHER = 12.0  # N times a squared correlation, on the average of at least
FEWEST_ROWS = 3
FEWEST = 8  # candidates to guard against, even where there are less
ROUNDS = 3  # of mean given scale, scale given mean
LEAST_SQUARE = 1e-100  # of a residual
HALF_MEAN_LOG_CHI = 0.635  # minus half the mean of log χ² with one degree of freedom


@dataclass(frozen=True)
class ConditionalRow:
    r"""How a coordinate depends on earlier ones, and how well that fits.

    .. math:: y \mid z \sim N\bigl(a + b\cdot z + \sum_p w_p u_{j_p} u_{k_p},\;
              e^{2(c + g\cdot z + \sum_h v_h \,\mathrm{hinge}(z_{i_h} - \kappa_h))}\bigr)

    with :math:`u` the columns of :func:`expand`.

    Attributes:
        intercept: a.
        slope: b, shape (k,).
        log_intercept: c.
        log_slope: g, shape (k,).
        pairs: the columns :math:`(j_p, k_p)` of every product, as :func:`expand` numbers them.
        weights: :math:`w_p`.
        hinges: the column :math:`i_h` and the number of its knot, of every bend of the log scale.
        hinge_weights: :math:`v_h`.
        log_likelihood: per draw, without the constant.
        num_coefficients: how many coefficients were fitted.
        log_residual: log squared distances from the mean, shape (N,).
    """

    intercept: float
    slope: Tensor
    log_intercept: float
    log_slope: Tensor
    pairs: list[tuple[int, int]]
    weights: list[float]
    hinges: list[tuple[int, int]]
    hinge_weights: list[float]
    log_likelihood: float
    num_coefficients: int
    log_residual: Tensor


def hinge(u: Tensor) -> Tensor:
    """From zero on the left to the identity on the right, smoothly: a log scale that stops following a coordinate.

    >>> [round(v, 4) for v in hinge(torch.tensor([-9.0, 0.0, 9.0])).tolist()]
    [0.0, 0.3466, 9.0]
    """
    return 0.5 * torch.nn.functional.softplus(2 * u)


def expand(z: Tensor, index: Tensor) -> Tensor:
    """Columns that products are made of: ``z`` itself, then the constant one, then :func:`hinge` of ``z_j - knot``, three to a column.

    Args:
        z: shape (..., k).
        index: numbers of columns, shape (p,), from 0 to 4k.

    Returns:
        Shape (..., p).

    >>> expand(torch.tensor([[0.5, 1.0]]), torch.tensor([1, 2, 7])).tolist()
    [[1.0, 1.0, 1.0634640455245972]]
    """
    dim = z.shape[-1]
    bent = (index - dim - 1).clamp_min(0)
    column = torch.where(index < dim, index, bent // len(KNOTS)).clamp_max(max(dim - 1, 0))
    knots = torch.tensor(KNOTS, dtype=z.dtype, device=z.device)[bent % len(KNOTS)]
    value = z[..., column]
    return torch.where(index < dim, value, torch.where(index == dim, torch.ones_like(value), hinge(value - knots)))


def fit_row(y: Tensor, z: Tensor, shared: Sequence[int] = ()) -> ConditionalRow:
    r"""Mean linear in ``z`` and a few products, log scale linear in ``z`` with a few bends; terms enter while significant.

    A coordinate that the log scale depends on may also saturate: in a hierarchical model a mean goes from one value to
    another, and a scale stops shrinking, as the scale of the group goes to zero. Cost :math:`O(N k^2)`.

    Args:
        y: draws of the coordinate, shape (N,).
        z: draws of the earlier ones, of order one, shape (N, k).

    Returns:
        The fitted conditional density.

    >>> generator = torch.Generator().manual_seed(0)
    >>> z = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    >>> noise = torch.randn(4000, generator=generator, dtype=torch.float64)
    >>> row = fit_row(1 + z[:, 0] ** 2 + torch.exp(0.5 * z[:, 0]) * noise, z)
    >>> row.pairs, round(row.weights[0], 1), round(float(row.log_slope), 1)
    ([(0, 0)], 1.0, 0.5)
    """
    count, dim = z.shape
    level = SIGNIFICANT * math.log(max(FEWEST, dim * dim)) / count
    log_scale = torch.zeros_like(y)
    pairs: list[tuple[int, int]] = []
    log_terms: list[int] = []
    for _ in range(ROUNDS):
        known = pairs
        linear, pairs, coefficients = _fit_mean(
            _Regression(y, z, torch.exp(-log_scale)), level, known, log_terms, shared
        )
        residual = y - _design(z, linear, pairs) @ coefficients
        log_terms, hinges, log_coefficients = _fit_log_scale(residual, z, level, shared)
        log_scale = _log_design(z, log_terms, hinges) @ log_coefficients
        if not log_terms and pairs == known:
            break  # equal weights, nothing new: the next round would be the same
    slope, log_slope = y.new_zeros(dim), y.new_zeros(dim)
    slope[linear] = coefficients[1 : 1 + len(linear)]
    log_slope[log_terms] = log_coefficients[1 : 1 + len(log_terms)]
    log_likelihood = -0.5 * (residual * torch.exp(-log_scale)).square() - log_scale
    return ConditionalRow(
        float(coefficients[0]), slope, float(log_coefficients[0]), log_slope, pairs,
        coefficients[1 + len(linear) :].tolist(), hinges, log_coefficients[1 + len(log_terms) :].tolist(),
        float(log_likelihood.mean()), len(coefficients) + len(log_coefficients), _logs(residual),
    )  # fmt: skip


def shared_scales(log_residuals: Sequence[Tensor], z: Tensor) -> list[int]:
    """Columns that the scales of many rows depend on, each perhaps too weakly to be seen by itself.

    Args:
        log_residuals: of every row, :attr:`ConditionalRow.log_residual`.
        z: the columns, shape (N, k); row i may depend on those before column i.

    Returns:
        Their numbers.

    >>> generator = torch.Generator().manual_seed(0)
    >>> z = torch.randn(2000, 9, generator=generator, dtype=torch.float64)
    >>> z[:, 1:] *= torch.exp(0.15 * z[:, :1])
    >>> rows = [fit_row(z[:, i], z[:, :i]) for i in range(9)]
    >>> sum(int(row.log_slope.count_nonzero()) for row in rows)
    2
    >>> shared_scales([row.log_residual for row in rows], z)
    [0]
    """
    count, dim = z.shape
    total = z.new_zeros(dim)
    for i in range(1, dim):
        total[:i] += count * _squared_correlations(z[:, :i], log_residuals[i])
    rows = torch.arange(dim - 1, -1, -1, dtype=z.dtype, device=z.device)
    return ((rows >= FEWEST_ROWS) & (total > TOGETHER * rows)).nonzero()[:, 0].tolist()


def _logs(residual: Tensor) -> Tensor:
    """Log squares, bounded below: of residuals that are all zero the squared weights must still be finite."""
    return (residual.square() + 1e-12 * residual.square().mean()).clamp_min(LEAST_SQUARE).log()


def _design(z: Tensor, linear: list[int], pairs: list[tuple[int, int]]) -> Tensor:
    """Columns one, linear terms and products, shape (N, 1 + ...)."""
    return torch.cat([z.new_ones(len(z), 1), z[:, linear], _products(z, pairs)], 1)


def _products(z: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    index = torch.tensor(pairs, dtype=torch.long, device=z.device).view(-1, 2)
    return expand(z, index[:, 0]) * expand(z, index[:, 1])


def _log_design(z: Tensor, terms: list[int], hinges: list[tuple[int, int]]) -> Tensor:
    """Columns one, linear terms and hinges, shape (N, 1 + ...)."""
    bent = [hinge(z[:, j] - KNOTS[c])[:, None] for j, c in hinges]
    return torch.cat([z.new_ones(len(z), 1), z[:, terms], *bent], 1)


class _Regression:
    """Weighted least squares: rows ``z`` (N, k) to ``y`` (N,), each with the inverse of its standard deviation."""

    def __init__(self, y: Tensor, z: Tensor, weight: Tensor) -> None:
        self.z, self.weight, self.y = z, weight, y * weight
        self.columns = _design(z, list(range(z.shape[1])), []) * weight[:, None]
        self.gram = self.columns.T @ self.columns
        self._bent: dict[int, Tensor] = {}

    def solve(self, linear: list[int], pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients, their standard errors, and the weighted residuals."""
        chosen = [0, *(j + 1 for j in linear)]
        scaled = self.columns[:, chosen]
        gram = self.gram[chosen][:, chosen]
        if pairs:
            products = _products(self.z, pairs) * self.weight[:, None]
            cross = scaled.T @ products
            gram = torch.cat([torch.cat([gram, cross], 1), torch.cat([cross.T, products.T @ products], 1)])
            scaled = torch.cat([scaled, products], 1)
        ridge = 1e-9 * torch.diag(gram.diagonal()) + 1e-12 * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        inverse = torch.linalg.inv(gram + ridge)
        beta = inverse @ (scaled.T @ self.y)
        residual = self.y - scaled @ beta
        error = inverse.diagonal().clamp_min(1e-300).sqrt() * residual.std()
        return beta, error, residual

    def strongest_pair(self, residual: Tensor, level: Tensor) -> tuple[float, tuple[int, int]]:
        """The product of two columns most correlated with the residual: squared correlation, and the columns.

        Correlations are in units of what each product must have, ``level`` of shape (k + 1, k), the constant one last.
        """
        strength = self._correlations(residual, self.z, self.z).triu() / torch.minimum(level[:-1], level[:-1].T)
        best = divmod(int(strength.argmax()), strength.shape[1])
        return float(strength[best]), best

    def strongest_bend(
        self, residual: Tensor, bent: list[int], level: Tensor, others: list[int]
    ) -> tuple[float, tuple[int, int]]:
        """Likewise of the products of one of the columns ``others`` with a bend of one of the columns ``bent``."""
        dim, knots = self.z.shape[1], len(KNOTS)
        columns = torch.cat([self._bends(j) for j in bent], 1)
        strength = self._correlations(residual, expand(self.z, torch.tensor(others)), columns)
        strength = strength / level[others][:, bent].repeat_interleave(knots, 1)
        row, column = divmod(int(strength.argmax()), strength.shape[1])
        return float(strength[row, column]), (others[row], dim + 1 + knots * bent[column // knots] + column % knots)

    def _bends(self, j: int) -> Tensor:
        """Column j bent at every knot, shape (N, knots)."""
        if j not in self._bent:
            knots = torch.tensor(KNOTS, dtype=self.z.dtype, device=self.z.device)
            self._bent[j] = hinge(self.z[:, j, None] - knots)
        return self._bent[j]

    def _correlations(self, residual: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Squared, of the weighted products of two sets of columns (N, k) and (N, l) with a residual; zero for constants."""
        # All products at once, by three matrix products and without ever holding their N·k·l entries.
        weighted = right * self.weight[:, None]
        centred = residual - residual.mean()
        total, squares = left.T @ weighted, left.square().T @ weighted.square()
        variance = squares - total.square() / len(left)
        covariance = (left * centred[:, None]).T @ weighted
        usable = variance > 1e-12 * squares
        norm = torch.where(usable, variance, 1.0) * centred.square().sum()
        return torch.where(usable, covariance.square() / norm.clamp_min(1e-300), 0.0)


def _squared_correlations(columns: Tensor, y: Tensor) -> Tensor:
    """Of every column (N, k) with ``y`` (N,); zero for constants."""
    centred, other = columns - columns.mean(0), y - y.mean()
    norm = centred.square().sum(0) * other.square().sum()
    return (centred.T @ other).square() / norm.clamp_min(1e-300)


def _fit_mean(
    regression: _Regression, level: float, pairs: list[tuple[int, int]], bent: list[int], shared: Sequence[int]
) -> tuple[list[int], list[tuple[int, int]], Tensor]:
    """All linear terms beside the products known so far, pruned by significance; then more products one by one."""
    count, dim = regression.z.shape
    linear, pairs = list(range(dim)) if 4 * dim < count else [], list(pairs)
    for _ in range(2):
        beta, error, _ = regression.solve(linear, pairs)
        strong = ((beta / error)[1:].square() > 2 * math.log(count)).tolist()
        pairs = [pair for pair, keep in zip(pairs, strong[len(linear) :], strict=True) if keep]
        linear = [j for j, keep in zip(linear, strong, strict=False) if keep]
    beta, error, residual = regression.solve(linear, pairs)
    if not dim:
        return linear, pairs, beta
    levels = beta.new_full((dim + 1, dim), level)
    nearest = _strongest(linear, beta, error) if linear else []
    for j in {*shared, *nearest}:
        levels[[*(linear if j in shared else nearest), dim], j] = min(level, LIKELY * math.log(count) / count)
    while len(pairs) < MAX_PAIRS:
        strength, pair = regression.strongest_pair(residual, levels)
        for columns, others in ((bent, list(range(dim + 1))), (nearest, [*nearest, dim])):
            if columns:
                strength, pair = max((strength, pair), regression.strongest_bend(residual, columns, levels, others))
        if strength < 1 or pair in pairs:
            break
        pairs.append(pair)
        beta, _, residual = regression.solve(linear, pairs)
    return linear, pairs, beta


def _strongest(linear: list[int], beta: Tensor, error: Tensor) -> list[int]:
    """Columns that the mean follows most: it may follow them less further out."""
    strength = (beta / error)[1 : 1 + len(linear)].abs()
    return [linear[k] for k in strength.argsort(descending=True)[:MOST_BENT].tolist()]


def _fit_log_scale(
    residual: Tensor, z: Tensor, level: float, shared: Sequence[int]
) -> tuple[list[int], list[tuple[int, int]], Tensor]:
    """Terms, then bends of theirs, by their correlation with log squared residuals, coefficients by maximum likelihood."""
    levels = z.new_full((z.shape[1],), level)
    levels[list(shared)] = min(level, SHARED * math.log(len(z)) / len(z))
    logs = _logs(residual)
    terms: list[int] = []
    design, left = _design(z, terms, []), logs
    for _ in range(min(MAX_LOG_TERMS, z.shape[1])):
        squared = _squared_correlations(z, left)
        best = int((squared / levels).argmax())
        if squared[best] < levels[best] or best in terms:
            break
        terms.append(best)
        design = _design(z, terms, [])
        left = logs - design @ torch.linalg.lstsq(design, logs[:, None]).solution[:, 0]
    hinges: list[tuple[int, int]] = []
    candidates = [(j, c) for j in terms for c in range(len(KNOTS))]
    while candidates and len(hinges) < MAX_HINGES:
        squared = _squared_correlations(_log_design(z, [], candidates)[:, 1:], left)
        best = int(squared.argmax())
        if squared[best] < levels[candidates[best][0]] or candidates[best] in hinges:
            break
        hinges.append(candidates[best])
        design = _log_design(z, terms, hinges)
        left = logs - design @ torch.linalg.lstsq(design, logs[:, None]).solution[:, 0]
    start = 0.5 * torch.linalg.lstsq(design, logs[:, None]).solution[:, 0]
    start[0] += HALF_MEAN_LOG_CHI
    return terms, hinges, _newton(design, residual, start)


def _newton(design: Tensor, residual: Tensor, beta: Tensor) -> Tensor:
    """The log scales ``design @ beta`` of the highest normal likelihood of the residuals."""
    count, size = design.shape
    ridge = 1e-9 * torch.eye(size, dtype=design.dtype, device=design.device)
    for _ in range(20):
        ratio = (residual * torch.exp(-design @ beta)).square().clamp_max(1e6)
        hessian = 2 * (design * ratio[:, None]).T @ design / count + ridge
        step = torch.linalg.solve(hessian, (design * (ratio - 1)[:, None]).mean(0))
        beta = beta + step.clamp(-1, 1)
        if float(step.abs().max()) < 1e-8:
            break
    return beta
