"""Chains, lattices and Rosenbrock densities: transfer operators on quadrature nodes, and naive loops over the sites."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from ttvi import problems


def nodes(lower: float, upper: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Twenty Gauss-Legendre nodes on each of count / 20 panels."""
    x, w = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(lower, upper, count // 20 + 1)
    half = 0.5 * (edges[1] - edges[0])
    return (edges[:-1, None] + half * (x + 1)).reshape(-1), np.tile(half * w, count // 20)


def chain_log_integral(log_bonds: list[np.ndarray], w: np.ndarray, first: np.ndarray, last: np.ndarray) -> float:
    """log ∫ exp(first(x_1) + Σ bond_i(x_i, x_{i+1}) + last(x_d)) on nodes with weights `w`, one matrix per bond."""
    vector, log_scale = w * np.exp(first), 0.0
    for bond in log_bonds:
        peak = bond.max()
        vector = (vector @ np.exp(bond - peak)) * w
        log_scale += peak + math.log(vector.sum())
        vector /= vector.sum()
    peak = last.max()
    return log_scale + peak + math.log(vector @ np.exp(last - peak))


# -- the chains of "Tensorizing flows" ------------------------------------------------------------------------


def test_free_ends_chain_at_another_temperature():
    x, w = nodes(-1, 1, 300)
    bond = -(0.02 * 51**2 * (2 * x[:, None] - 2 * x) ** 2 + (1 - 4 * x**2) ** 2 / 0.16) / 16
    value = chain_log_integral([bond] * 49, w, 0 * x, 0 * x)
    assert problems.get("free-ends-chain-50-temperature-16").log_evidence == pytest.approx(value, abs=1e-5)


def coupled_chain_integral(couplings: np.ndarray, scale: float) -> float:
    """Both ends at zero, one coupling per bond, density in θ = u/scale."""
    x, w = nodes(-1, 1, 600)
    u, stiffness = scale * x, 0.02 * len(couplings) ** 2 / 16
    well = -((1 - u**2) ** 2) / 0.16 / 16
    bonds = [-c * stiffness * (u[:, None] - u) ** 2 + well for c in couplings[1:-1]]
    first = -couplings[0] * stiffness * u**2 + well
    last = -couplings[-1] * stiffness * u**2 - 1 / 0.16 / 16
    return chain_log_integral(bonds, w, first, last)


def test_antiferromagnetic_chain_evidence():
    value = coupled_chain_integral(-np.ones(26), 4.5)
    assert problems.get("antiferromagnetic-chain-25").log_evidence == pytest.approx(value, abs=1e-5)


def spin_glass_couplings() -> np.ndarray:
    return np.concatenate(([1.0], np.random.default_rng(2).uniform(-1, 1, 34), [1.0]))


def test_spin_glass_chain_evidence():
    value = coupled_chain_integral(spin_glass_couplings(), 3.5)
    assert problems.get("spin-glass-chain-35").log_evidence == pytest.approx(value, abs=1e-5)


def coupled_chain_density(theta: np.ndarray, couplings: np.ndarray, scale: float) -> float:
    u = [0.0, *(scale * theta), 0.0]
    value = 0.0
    for i in range(1, len(u)):
        value += 0.02 * couplings[i - 1] * ((u[i] - u[i - 1]) * (len(u) - 1)) ** 2 + (1 - u[i] ** 2) ** 2 / 0.16
    return -value / 16


@pytest.mark.parametrize(
    ("name", "couplings", "scale"),
    [
        ("antiferromagnetic-chain-25", -np.ones(26), 4.5),
        ("spin-glass-chain-35", spin_glass_couplings(), 3.5),
    ],
)
def test_coupled_chains_by_loop(name, couplings, scale, generator):
    problem = problems.get(name)
    x = 2 * torch.rand((3, problem.dim), generator=generator, device=generator.device, dtype=torch.float64) - 1
    expected = [coupled_chain_density(row, couplings, scale) for row in x.cpu().numpy()]
    np.testing.assert_allclose(problem.log_density(x).cpu().numpy(), expected, rtol=1e-12)


# -- Rosenbrock -----------------------------------------------------------------------------------------------


def test_rosenbrock_chain_evidence():
    x, w = nodes(-5, 5, 1400)
    bond = -100 * (x - x[:, None] ** 2) ** 2 - (1 - x[:, None]) ** 2
    value = chain_log_integral([bond] * 9, w, 0 * x, 0 * x) - 10 * math.log(10)
    assert problems.get("rosenbrock-chain-10").log_evidence == pytest.approx(value, abs=1e-6)


def test_rosenbrock_pairs_evidence():
    """∫ db of a Gaussian of variance 1/20 around a², cut at 10, then quadrature over a."""
    a, w = nodes(-10, 10, 4000)
    erf = np.vectorize(math.erf)
    inner = 0.5 * math.sqrt(math.pi / 10) * (erf(math.sqrt(10) * (10 - a**2)) + erf(math.sqrt(10) * (10 + a**2)))
    value = 10 * (math.log(np.sum(w * np.exp(-((a - 1) ** 2)) * inner)) - 2 * math.log(20))
    assert problems.get("rosenbrock-pairs-20").log_evidence == pytest.approx(value, abs=1e-6)


def test_rosenbrock_of_tensorizing_flows_evidence():
    """Transfer operator over x_1 … x_{d−1}; the last coordinate is an error function."""
    x, w = nodes(-2, 2, 400)
    y, wy = nodes(-7, 7, 800)

    def bond(a, b):
        return -0.5 * (a[:, None] ** 2 + (b + 5 * (a[:, None] ** 2 + 1)) ** 2)

    vector, log_scale = w.copy(), 0.0
    for _ in range(8):
        vector = (vector @ np.exp(bond(x, x))) * w
        log_scale += math.log(vector.sum())
        vector /= vector.sum()
    vector = (vector @ np.exp(bond(x, y))) * wy
    centre, erf = 5 * (y**2 + 1), np.vectorize(math.erf)
    last = math.sqrt(math.pi / 2) * (erf((200 - centre) / math.sqrt(2)) + erf((200 + centre) / math.sqrt(2)))
    value = log_scale + math.log(vector @ (np.exp(-0.5 * y**2) * last)) - 9 * math.log(2) - math.log(7 * 200)
    for name in ("rosenbrock-11", "double-rosenbrock-11"):
        assert problems.get(name).log_evidence == pytest.approx(value, abs=1e-5)


def test_rosenbrock_densities_by_loop(generator):
    u = 2 * torch.rand((4, 6), generator=generator, device=generator.device, dtype=torch.float64) - 1
    for row, x in enumerate(u.tolist()):
        chain = sum(100 * (5 * b - 25 * a * a) ** 2 + (1 - 5 * a) ** 2 for a, b in zip(x, x[1:]))
        value = problems.get("rosenbrock-chain-6").log_density(5 * u)[row]
        assert float(value) == pytest.approx(-chain - 6 * math.log(10), rel=1e-12)
        pairs = sum(10 * (a * a - b) ** 2 + (a - 1) ** 2 for a, b in zip(x[0::2], x[1::2]))
        value = problems.get("rosenbrock-pairs-6").log_density(u)[row]
        assert float(value) == pytest.approx(-pairs - 6 * math.log(20), rel=1e-12)
        y = [s * a for s, a in zip((2, 2, 2, 2, 7, 200), x)]
        both = []
        for sign in (1, -1):
            z = [*y[:-1], sign * y[-1]]
            both.append(-0.5 * sum(a * a + (b + 5 * (a * a + 1)) ** 2 for a, b in zip(z, z[1:])))
        assert float(problems.get("rosenbrock-6").log_density(u)[row]) == pytest.approx(both[0], rel=1e-12)
        value = problems.get("double-rosenbrock-6").log_density(u)[row]
        assert float(value) == pytest.approx(np.logaddexp(*both) - math.log(2), rel=1e-12)


# -- lattices -------------------------------------------------------------------------------------------------


def gauss_nodes(log_weight, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss nodes and weights for ∫ f(x) exp(log_weight(x)) dx, by Lanczos on a fine grid."""
    x = np.linspace(-5, 5, 4001)
    mass = np.exp(log_weight(x)) * (x[1] - x[0])
    vector, previous, diagonal, off = np.sqrt(mass / mass.sum()), 0 * x, [], []
    for _ in range(size):
        image = x * vector
        diagonal.append(vector @ image)
        image -= diagonal[-1] * vector + (off[-1] if off else 0.0) * previous
        off.append(np.linalg.norm(image))
        previous, vector = vector, image / off[-1]
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off[:-1], 1) + np.diag(off[:-1], -1))
    return values, mass.sum() * vectors[0] ** 2


def apply_row(state: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Multiply every axis of `state` by the symmetric kernel."""
    for _ in range(state.ndim):
        state = np.tensordot(state, kernel, axes=(0, 0))
    return state


@pytest.mark.parametrize(("side", "size"), [(4, 14), (6, 11)])
def test_ginzburg_landau_2d_evidence(side, size):
    """Row by row, each row a tensor with one axis per site; the wells are in the Gauss rule."""
    x, w = gauss_nodes(lambda y: -((1 - y**2) ** 2), size)
    kernel = np.exp(-((x[:, None] - x) ** 2))
    row = np.ones((size,) * side)
    for axis in range(side):
        row = row * w.reshape((-1,) + (1,) * (side - 1 - axis))
    for axis in range(side - 1):
        row = row * kernel.reshape((size, size) + (1,) * (side - 2 - axis))
    state, log_scale = row, 0.0
    for _ in range(side - 1):
        state = apply_row(state, kernel) * row
        log_scale += math.log(state.sum())
        state /= state.sum()
    value = log_scale + math.log(state.sum())
    assert problems.get(f"ginzburg-landau-2d-{side}").log_evidence == pytest.approx(value, abs=4e-4)


@pytest.mark.parametrize(("side", "coupling"), [(6, 6.975), (6, 8.0)])
def test_phi4_evidence(side, coupling):
    """Z = tr T^L with the symmetric transfer operator between rows; its largest eigenvalues are enough."""
    size = 6
    # −m² φ² − λ φ⁴ and the −4 φ² of the four bonds' squares; bonds keep 2 φ φ'.
    x, w = gauss_nodes(lambda y: 4 * y**2 - coupling * y**4 - 4 * y**2, size)
    kernel = np.exp(2 * x[:, None] * x)
    half = np.ones((size,) * side)
    for axis in range(side):
        half = half * np.sqrt(w).reshape((-1,) + (1,) * (side - 1 - axis))
    bond = np.sqrt(kernel)
    for axis in range(side - 1):
        half = half * bond.reshape((size, size) + (1,) * (side - 2 - axis))
    half = half * bond.reshape((size,) + (1,) * (side - 2) + (size,))

    def apply(vector):
        return (half * apply_row(half * vector.reshape(half.shape), kernel)).reshape(-1)

    operator = scipy.sparse.linalg.LinearOperator((half.size, half.size), matvec=apply, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(half.size)
    values = scipy.sparse.linalg.eigsh(operator, k=40, v0=start, return_eigenvectors=False, tol=1e-8)
    value = math.log(np.sum((values / values.max()) ** side)) + side * math.log(values.max())
    assert problems.get(f"phi4-{side}-lambda-{coupling:g}").log_evidence == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize(
    "name", ["phi4-3-lambda-7.5", "ginzburg-landau-2d-3", "xy-lattice-3", "boundary-lattice-3-temperature-2"]
)
def test_lattice_densities_by_loop(name, generator):
    """Every bond once, written out."""
    problem, side = problems.get(name), 3
    points = torch.randn((4, 9), generator=generator, device=generator.device, dtype=torch.float64)
    for point, value in zip(points.cpu().numpy(), problem.log_density(points).tolist(), strict=True):
        field = point.reshape(side, side)
        expected = 0.0
        for i in range(side):
            for j in range(side):
                x, right, down = field[i, j], field[i, (j + 1) % side], field[(i + 1) % side, j]
                if name.startswith("phi4"):
                    expected -= -4 * x**2 + 7.5 * x**4 + (right - x) ** 2 + (down - x) ** 2
                elif name.startswith("xy"):
                    expected += math.cos(right - x) + math.cos(down - x)
                elif name.startswith("ginzburg"):
                    expected -= (1 - x**2) ** 2
                    expected -= (right - x) ** 2 * (j + 1 < side) + (down - x) ** 2 * (i + 1 < side)
                else:
                    expected -= (1 - 4 * x**2) ** 2 / 0.16 / 2
        if name.startswith("boundary"):
            frame = np.zeros((side + 2, side + 2))
            frame[0], frame[-1] = 1, 1
            frame[:, 0] = frame[:, -1] = -1
            frame[1:-1, 1:-1] = 2 * field
            squares = sum(
                (frame[i, j] - frame[i + 1, j]) ** 2 + (frame[j, i] - frame[j, i + 1]) ** 2
                for i in range(side + 1)
                for j in range(side + 2)
            )
            expected -= 0.02 * 16 * squares / 2
        assert value == pytest.approx(expected, rel=1e-12)


def test_boundary_lattice_has_its_symmetry(generator):
    """u → −uᵀ leaves the density alone and exchanges the modes."""
    problem = problems.get("boundary-lattice-8-temperature-1")
    x = 2 * torch.rand((5, 64), generator=generator, device=generator.device, dtype=torch.float64) - 1
    mirrored = -x.reshape(5, 8, 8).mT.reshape(5, 64)
    torch.testing.assert_close(problem.log_density(mirrored), problem.log_density(x))
    assert bool((problem.modes.assign(mirrored) != problem.modes.assign(x)).all())
