"""Mixtures of densities against closed forms; partitions that separate two modes and merge one."""

from __future__ import annotations

import math

import pytest
import torch

from ttvi.geometry.atlas import Atlas, Partition
from ttvi.geometry.chart import Chart
from ttvi.geometry.coordinates import Coordinates, Pullback
from ttvi.geometry.density import ChartDensity
from ttvi.records import pack, unpack
from ttvi.supports import Support, circular, real
from ttvi.tt import Legendre, TTDensity

SHARES = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEANS = torch.tensor([[-2.0, 0.0], [1.0, 1.0], [3.0, -2.0]], dtype=torch.float64)
SDS = torch.tensor([[0.5, 1.0], [1.0, 0.4], [0.7, 0.7]], dtype=torch.float64)
ROTATION = 0.6  # correlation in every component


def seed(value):
    return torch.Generator().manual_seed(value)


def component(k):
    covariance = torch.diag(SDS[k].square())
    covariance[0, 1] = covariance[1, 0] = ROTATION * SDS[k].prod()
    return torch.distributions.MultivariateNormal(MEANS[k], covariance)


def mixture_log_prob(x):
    return torch.logsumexp(torch.stack([component(k).log_prob(x) + SHARES[k].log() for k in range(3)]), 0)


@pytest.fixture(scope="module")
def atlas():
    """Correlated Gaussians as trains on boxes of ten standard deviations; shares given up to a constant."""
    parts = []
    for k in range(3):
        bases = [Legendre(float(m - 8 * s), float(m + 8 * s), size=50) for m, s in zip(MEANS[k], SDS[k])]
        parts.append(TTDensity.fit(component(k).log_prob, bases, tol=1e-5, seed=0, defensive=0.0))
    return Atlas(parts, SHARES.log() + 5.0)


def points():
    which = torch.multinomial(SHARES, 200, replacement=True, generator=seed(0))
    noise = torch.randn(200, 2, generator=seed(1), dtype=torch.float64)
    return MEANS[which] + SDS[which] * noise


def test_log_prob(atlas):
    torch.testing.assert_close(atlas.log_prob(points()), mixture_log_prob(points()), rtol=0, atol=1e-3)
    assert atlas.log_prob(points().view(4, 50, 2)).shape == (4, 50)
    assert float(atlas.log_shares.exp().sum()) == pytest.approx(1.0)


def test_gradients_where_some_parts_or_all_have_no_density(atlas):
    x = torch.tensor([[-2.0, 0.0], [1.0, 1.0], [100.0, 0.0]], dtype=torch.float64, requires_grad=True)
    values = atlas.log_prob(x)
    (grad,) = torch.autograd.grad(values.sum(), x)
    assert values[2] == -math.inf
    leaf = x.detach()[:2].requires_grad_(True)
    (wanted,) = torch.autograd.grad(mixture_log_prob(leaf).sum(), leaf)
    torch.testing.assert_close(grad[:2], wanted, rtol=0, atol=1e-2)
    assert grad[2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("sobol", "tolerance"), [(False, 0.02), (True, 0.002)])
def test_draws(atlas, sobol, tolerance):
    x = atlas.sample((8192,), generator=seed(2), sobol=sobol)
    mean = SHARES @ MEANS
    second = sum(s * (component(k).covariance_matrix + torch.outer(MEANS[k], MEANS[k])) for k, s in enumerate(SHARES))
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=3 * tolerance)
    torch.testing.assert_close(x.T @ x / 8192, second, rtol=0, atol=10 * tolerance)
    near = torch.stack([component(k).log_prob(x) + SHARES[k].log() for k in range(3)]).softmax(0).mean(1)
    torch.testing.assert_close(near, SHARES, rtol=0, atol=tolerance)
    # In no order: the first half is like the second.
    assert float((x[:4096].mean(0) - x[4096:].mean(0)).abs().max()) < 0.15


def test_shapes_of_draws(atlas):
    assert atlas.sample(generator=seed(0)).shape == (2,)
    assert atlas.sample((0,), generator=seed(0)).shape == (0, 2)
    assert atlas.sample((3, 4), generator=seed(0), sobol=True).shape == (3, 4, 2)
    assert torch.equal(atlas.sample((5,), generator=seed(3)), atlas.sample((5,), generator=seed(3)))
    assert not atlas.has_rsample


@pytest.mark.parametrize("k", [0, 1])
def test_marginals(atlas, k):
    x = torch.linspace(-4, 5, 50, dtype=torch.float64)
    wanted = sum(s * torch.distributions.Normal(MEANS[j, k], SDS[j, k]).log_prob(x).exp() for j, s in enumerate(SHARES))
    torch.testing.assert_close(atlas.marginal([k]).log_prob(x[:, None]).exp(), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("position", [0, -2])
@pytest.mark.parametrize("value", [-2.0, 0.7, 2.5])
def test_conditionals(atlas, position, value):
    y = torch.linspace(-3, 3, 50, dtype=torch.float64)
    x = torch.stack([torch.full_like(y, value), y], 1)
    evidence = sum(
        s * torch.distributions.Normal(MEANS[j, 0], SDS[j, 0]).log_prob(x[0, 0]).exp() for j, s in enumerate(SHARES)
    )
    wanted = mixture_log_prob(x).exp() / evidence
    found = atlas.condition({position: value}).log_prob(y[:, None]).exp()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)


def test_conditions_that_cannot_be(atlas):
    with pytest.raises(
        ValueError, match="condition: expected values of positive density; got {0: 99.0}. Look at the marginal."
    ):
        atlas.condition({0: 99.0})
    with pytest.raises(ValueError, match="Leave one free"):
        atlas.condition({0: 0.0, 1: 0.0})
    coordinates = Coordinates(Support.parse(dim=2))
    chart = Chart.plain_affine(coordinates, MEANS[0], component(0).covariance_matrix, label="region 0")
    turned = ChartDensity(TTDensity.fit(lambda w: 0 * w[:, 0], chart.bases(), seed=0), chart)
    for verb, argument in (("marginal", [0]), ("condition", {0: 1.0})):
        with pytest.raises(
            ValueError, match=f"{verb}: expected coordinates that the approximation keeps apart; got region 0 ones"
        ):
            getattr(Atlas([turned], torch.zeros(1).double()), verb)(argument)


def test_record(atlas):
    again = unpack(*pack(atlas))
    assert torch.equal(again.log_prob(points()), atlas.log_prob(points()))
    assert torch.equal(again.sample((9,), generator=seed(1)), atlas.sample((9,), generator=seed(1)))


def test_responsibilities_of_the_parts(atlas):
    """Shares of the parts in the density; equal ones where there is none."""
    x = points()
    r = atlas.log_responsibilities(x).exp()
    joint = torch.stack([component(k).log_prob(x).exp() * SHARES[k] for k in range(3)], 1)
    torch.testing.assert_close(r, joint / joint.sum(1, keepdim=True), rtol=0, atol=1e-3)
    nowhere = torch.full((1, 2), 1e6, dtype=torch.float64)
    assert atlas.log_responsibilities(nowhere).exp()[0].tolist() == pytest.approx([1 / 3] * 3)


# -- partitions ------------------------------------------------------------------------------------------------------------


def gaussians(centres, support=None):
    """A mixture of unit Gaussians on the lines of the coordinates, and its draws."""
    coordinates = Coordinates(Support.parse(support or [real] * centres.shape[1]))

    def log_density(x):
        return torch.logsumexp(-0.5 * (x[:, None, : centres.shape[1]] - centres).square().sum(2), 1)

    which = torch.randint(len(centres), (1000,), generator=seed(5))
    noise = torch.randn(1000, centres.shape[1], generator=seed(6), dtype=torch.float64)
    return Pullback(coordinates, log_density), centres[which] + noise


@pytest.mark.parametrize("curved", [True, False])
def test_two_modes_apart(curved):
    """Each region gets its own half: centre, unit covariance, equal share; responsibilities add up to one."""
    centres = torch.tensor([[-4.0, 0.0], [4.0, 1.0]], dtype=torch.float64)
    target, t = gaussians(centres)
    precisions = torch.eye(2, dtype=torch.float64).expand(2, 2, 2) if curved else None
    partition = Partition.around(target, t, centres, precisions, 8).refined(t)
    assert partition.size == 2
    torch.testing.assert_close(partition.centres, centres, rtol=0, atol=0.15)
    covariances = partition.factors @ partition.factors.mT
    torch.testing.assert_close(covariances, torch.eye(2, dtype=torch.float64).expand(2, 2, 2), rtol=0, atol=0.2)
    shares = partition.log_shares.exp()
    assert shares.tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    r = partition.log_responsibilities(t).exp()
    torch.testing.assert_close(r.sum(1), torch.ones(1000, dtype=torch.float64))
    mine = (t[:, 0] > 0).long()
    assert float(r.gather(1, mine[:, None]).mean()) > 0.97


def test_responsibilities_far_out_and_beyond():
    """They still add up to one, and no region takes all of the far space."""
    centres = torch.tensor([[-4.0, 0.0], [4.0, 1.0]], dtype=torch.float64)
    target, t = gaussians(centres)
    partition = Partition.around(target, t, centres, None, 8).refined(t)
    far = torch.tensor([[0.0, 1e6], [1e200, 0.0], [math.inf, 0.0], [math.nan, 0.0]], dtype=torch.float64)
    r = partition.log_responsibilities(far).exp()
    torch.testing.assert_close(r.sum(1), torch.ones(4, dtype=torch.float64))
    assert float(r.min()) > 0.05


def test_one_mode_stays_one_region():
    """Two starts on the flanks of one mode have no barrier between them."""
    target, t = gaussians(torch.zeros(1, 2, dtype=torch.float64))
    near = torch.tensor([[0.2, 0.0], [-0.3, 0.1]], dtype=torch.float64)
    assert Partition.around(target, t, near, None, 8) is None
    assert Partition.around(target, t, near[:1], None, 8) is None
    assert Partition.around(target, t, near[:0], None, 8) is None


def test_the_limit_keeps_the_best():
    centres = torch.tensor([[-8.0], [0.0], [8.0], [16.0]], dtype=torch.float64)
    target, t = gaussians(centres)
    partition = Partition.around(target, t, centres[[2, 0, 1, 3]], None, 2).refined(t)
    assert partition.size == 2
    assert float(partition.log_responsibilities(t).exp().sum(1).sub(1).abs().max()) < 1e-12


def test_angles_take_no_part():
    """A line with two modes beside a circle: the regions are those of the line."""
    centres = torch.tensor([[-4.0], [4.0]], dtype=torch.float64)
    target, line = gaussians(centres, [real, circular()])
    angle = 6 * torch.rand(1000, 1, generator=seed(7), dtype=torch.float64) - 3
    t = torch.cat([line, angle], 1)
    partition = Partition.around(target, t, torch.cat([centres, torch.zeros(2, 1)], 1), None, 8).refined(t)
    assert partition.centres.shape == (2, 1)
    r = partition.log_responsibilities(t)
    assert torch.equal(r, partition.log_responsibilities(torch.cat([line, -angle], 1)))


def test_regions_with_few_points_keep_their_curvature():
    """No point near the second mode: its centre and shape stay as the curvature says, its share is small but not zero."""
    centres = torch.tensor([[0.0, 0.0], [30.0, 0.0]], dtype=torch.float64)
    target, _ = gaussians(centres)
    t = torch.randn(500, 2, generator=seed(8), dtype=torch.float64)
    precisions = torch.stack([torch.eye(2), 4 * torch.eye(2)]).double()
    partition = Partition.around(target, t, centres, precisions, 8).refined(t)
    torch.testing.assert_close(partition.centres[1], centres[1])
    torch.testing.assert_close(partition.factors[1], 0.5 * torch.eye(2, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert 0 < float(partition.log_shares.exp()[1]) < 0.01


def test_shares_by_height_and_width():
    """Normal densities of these heights and curvatures have the masses p(mode) sqrt(det 2πΣ)."""
    centres = torch.tensor([[-9.0, 0.0], [9.0, 0.0]], dtype=torch.float64)
    target, t = gaussians(centres)
    precisions = torch.stack([torch.eye(2), torch.diag(torch.tensor([4.0, 25.0]))]).double()
    partition = Partition.around(target, t, centres, precisions, 8)
    assert partition.log_shares.tolist() == [0.0, 0.0]
    shares = partition.shared(torch.tensor([0.0, math.log(30.0)], dtype=torch.float64)).log_shares.exp()
    assert shares.tolist() == pytest.approx([0.25, 0.75])  # 1 to 30 / (2 · 5)


def test_regions_that_hold_nothing_are_left_out():
    """Three maxima, one of next to no mass and without points: two regions; with points there, three."""
    centres = torch.tensor([[-20.0, 0.0], [0.0, 0.0], [20.0, 0.0]], dtype=torch.float64)
    target, _ = gaussians(centres)
    noise = torch.randn(600, 2, generator=seed(7), dtype=torch.float64)
    everywhere = centres[torch.arange(600) % 3] + noise
    outside = centres[2 * (torch.arange(600) % 2)] + noise
    precisions = torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
    partition = Partition.around(target, everywhere, centres, precisions, 8)
    assert partition is not None
    values = torch.tensor([0.0, -30.0, 0.0], dtype=torch.float64)[(partition.centres[:, 0] / 20).round().long() + 1]
    assert partition.of_weight(everywhere, values).size == 3
    # Of 600 points one may lie near a kink: still no region; a normal density of 3e-4 of the mass neither.
    assert partition.of_weight(torch.cat([outside[1:], centres[1:2]]), values).size == 2
    kept = partition.of_weight(outside, torch.where(values < -1, -8.0, values))
    assert kept.size == 2
    kept = partition.of_weight(outside, values)
    assert sorted(kept.centres[:, 0].tolist()) == pytest.approx([-20.0, 20.0])
    torch.testing.assert_close(kept.log_responsibilities(outside).exp().sum(1), torch.ones(600, dtype=torch.float64))
    assert partition.of_weight(outside[:300] * 0 + centres[0], torch.tensor([0.0, -30.0, -30.0]).double()) is None
