"""Corner plots of a density whose marginals are known: independent coordinates of three kinds."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from ttvi.errors import MissingExtraError
from ttvi.plots import _levels, corner
from ttvi.posterior import Posterior
from ttvi.supports import Support, categorical, circular, positive, real
from ttvi.tt.basis import Categorical, Fourier, Hermite, Legendre

pytest.importorskip("matplotlib")


class Independent:
    """Product of standard normals on intervals or the line, uniform angles and fair dice, with a density's face."""

    def __init__(self, bases):
        self.bases = bases
        self.event_shape = torch.Size([len(bases)])
        self.dtype, self.device = torch.float64, torch.device("cpu")
        self.mean = torch.tensor([1.0 if basis.discrete else 0.0 for basis in bases], dtype=torch.float64)
        self.variance = torch.ones(len(bases), dtype=torch.float64)

    def marginal(self, dims):
        assert list(dims) == sorted(dims)
        return Independent([self.bases[k] for k in dims])

    def log_prob(self, value):
        terms = []
        for k, basis in enumerate(self.bases):
            if basis.discrete:
                terms.append(torch.full_like(value[:, k], -math.log(basis.size)))
            elif basis.periodic:
                terms.append(torch.full_like(value[:, k], -math.log(2 * math.pi)))
            else:
                terms.append(-0.5 * value[:, k] ** 2 - 0.5 * math.log(2 * math.pi))
        return sum(terms)

    def log_prob_grid(self, grids):
        shape = [len(grid) for grid in grids]
        mesh = torch.stack(torch.meshgrid(*grids, indexing="ij"), -1)
        return self.log_prob(mesh.reshape(-1, len(grids))).reshape(shape)


@pytest.fixture
def density():
    return Independent([Legendre(-50.0, 50.0, size=8), Fourier(-math.pi, math.pi, size=5), Categorical(3), Hermite()])


def test_axes_cover_the_mass_and_no_more(density):
    figure = corner(density)
    panels = [panel for panel in figure.axes if panel.get_visible()]
    assert len(figure.axes) == 16
    assert len(panels) == 10
    lower, upper = figure.axes[0].get_xlim()  # ±2.65 standard deviations hold 99.2 %, plus a margin
    assert -4 < lower < -2.6
    assert 2.6 < upper < 4
    assert figure.axes[5].get_xlim() == pytest.approx((-math.pi, math.pi))
    assert figure.axes[10].get_xlim() == (-0.5, 2.5)
    lower, upper = figure.axes[15].get_xlim()
    assert -4 < lower < -2.6
    assert 2.6 < upper < 4


def test_curve_is_the_marginal(density):
    line = corner(density, dims=[0]).axes[0].lines[0]
    x, y = (torch.as_tensor(values) for values in line.get_data())
    torch.testing.assert_close(y, torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi))


def test_contours_hold_their_mass():
    """For a standard normal pair the set of mass m is the disc of radius √(−2 log(1 − m))."""
    x = torch.linspace(-5, 5, 401, dtype=torch.float64)
    values = torch.exp(-0.5 * (x[:, None] ** 2 + x**2))
    for height, share in zip(_levels(values), (0.99, 0.86, 0.39), strict=True):
        assert height == pytest.approx(1 - share, rel=0.01)


def test_names_samples_and_order(density, tmp_path):
    samples = torch.zeros(5, 4)
    figure = corner(
        density, names=["a", "b", "c", "d"], dims=[3, 0], samples=samples, path=tmp_path / "corner.png", title="two"
    )
    assert (tmp_path / "corner.png").stat().st_size > 1000
    assert figure.axes[2].get_xlabel() == "d"
    assert figure.axes[2].get_ylabel() == "a"
    assert figure.axes[3].get_xlabel() == "a"
    assert figure.get_suptitle() == "two"


def test_many_coordinates_are_cut_with_a_note():
    figure = corner(Independent([Legendre(-4.0, 4.0, size=8)] * 11), grid_size=12)
    assert len(figure.axes) == 64
    assert figure.get_suptitle() == "first 8 of 11 coordinates"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": list(range(4)) * 3}, "expected 1 to 8 coordinates"),
        ({"dims": []}, "expected 1 to 8 coordinates"),
        ({"dims": [0, 4]}, "expected distinct `dims` below 4"),
        ({"dims": [0, -4]}, "expected distinct `dims` below 4"),
        ({"names": ["x"]}, "expected 4 `names`; got 1"),
    ],
)
def test_errors(density, arguments, message):
    with pytest.raises(ValueError, match=message):
        corner(density, **arguments)


def test_missing_matplotlib_names_the_extra(density, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"ttvi\[plots\]"):
        corner(density)


class Drawn(Independent):
    """The same, with draws: what a posterior wraps."""

    def sample(self, shape, *, generator=None):
        columns = []
        for basis in self.bases:
            noise = torch.randn(shape, dtype=torch.float64, generator=generator)
            if basis.discrete:
                noise = torch.randint(basis.size, shape, generator=generator).double()
            elif basis.periodic:
                noise = 2 * math.pi * (torch.rand(shape, dtype=torch.float64, generator=generator) - 0.5)
            columns.append(noise)
        return torch.stack(columns, -1)


class Mixed(Drawn):
    """One that mixes its coordinates: no marginals."""

    marginal = None

    def __getattribute__(self, name):
        if name == "marginal":
            raise AttributeError(name)
        return super().__getattribute__(name)


def posterior_of(kind, count=4000):
    distribution = kind([Hermite(), Fourier(-math.pi, math.pi, size=5), Categorical(3)])
    draws = distribution.sample((count,), generator=torch.Generator().manual_seed(0))
    support = Support.parse({"a": real, "angle": circular(), "k": categorical(3)})
    return Posterior(distribution, support, draws=draws, log_weights=torch.zeros(count, dtype=torch.float64))


def test_posterior_is_drawn_exactly():
    figure = corner(posterior_of(Drawn))
    lower, upper = figure.axes[0].get_xlim()
    assert -4.2 < lower < -2.6
    assert 2.6 < upper < 4.2
    assert figure.axes[4].get_xlim() == pytest.approx((-math.pi, math.pi))
    assert figure.axes[8].get_xlim() == (-0.5, 2.5)
    assert [figure.axes[k].get_xlabel() for k in (6, 7, 8)] == ["a", "angle", "k"]
    x, y = (torch.as_tensor(values) for values in figure.axes[0].lines[0].get_data())
    torch.testing.assert_close(y, torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi))


def test_posterior_without_marginals_is_smoothed():
    """Kernel estimates from 4000 draws, within a tenth of the peak of the truth; bars within 0.03."""
    figure = corner(posterior_of(Mixed))
    x, y = (torch.as_tensor(values) for values in figure.axes[0].lines[0].get_data())
    truth = torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    torch.testing.assert_close(y, truth, rtol=0, atol=0.04)
    _, flat = figure.axes[4].lines[0].get_data()
    assert float(abs(flat - 1 / (2 * math.pi)).max()) < 0.04  # the kernel goes around: no dip at the cut
    assert [bar.get_height() for bar in figure.axes[8].patches] == pytest.approx([1 / 3] * 3, abs=0.03)
    contours = figure.axes[3].collections
    assert len(contours) > 0


def test_conditional_of_a_posterior_is_drawn():
    from ttvi.named import NamedDensity

    distribution = Drawn([Legendre(0.0, 9.0, size=4)] * 2)
    distribution.sample = lambda shape, *, generator=None: (
        1 + torch.rand((*shape, 2), dtype=torch.float64, generator=generator)
    )
    figure = corner(NamedDensity(distribution, Support.parse([positive, positive])))
    assert figure.axes[0].get_xlim()[0] >= 0.0
    assert figure.axes[2].get_xlabel() == "x[0]"
