"""One walk through the public face on the device of ``--device``, in float64 and float32."""

import math

import pytest
import torch

from ttvi.tt import Categorical, Fourier, Hermite, Legendre, Piecewise, TTDensity, TTFunction

BASES = [Legendre(-4.0, 4.0, size=32), Categorical(2), Hermite(0.0, 1.2, size=20), Fourier(-math.pi, math.pi, size=15)]


def log_density(x):
    spin = 2 * x[:, 1] - 1
    return (
        -x[:, 0].square()
        + 0.5 * spin * x[:, 0]
        - x[:, 2].square()
        + 0.3 * spin * x[:, 2]
        + torch.cos(x[:, 3] - 0.4 * spin)
    )


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 2e-4)], ids=["float64", "float32"]
)
def test_density(device, generator, dtype, tolerance):
    # Spins summed by hand: two Gaussian integrals and a Bessel function, the same for both signs.
    exact = (
        math.log(2 * math.pi)
        + 0.25**2
        + 0.15**2
        + math.log(2 * math.pi * float(torch.special.i0(torch.ones(1, dtype=torch.float64))))
    )
    density = TTDensity.fit(
        log_density,
        BASES,
        tol=1e-3 if dtype == torch.float32 else 1e-7,
        generator=generator,
        dtype=dtype,
        device=device,
    )
    assert density.device.type == torch.device(device).type
    assert density.dtype == dtype
    assert float(density.log_evidence) == pytest.approx(exact, abs=10 * tolerance)
    x = density.sample((2000,), generator=generator)
    weights = log_density(x) - density.log_prob(x)
    assert float((weights - exact).abs().max()) < 0.1
    u = density.rosenblatt(x)
    assert float((density.inverse_rosenblatt(u) - x).abs().quantile(0.99)) < (1e-9 if dtype == torch.float64 else 1e-2)
    part = density.marginal([0, 2]).condition({0: x[:5, 0]})
    joint, single = density.marginal([0, 2]), density.marginal([0])
    difference = part.log_prob(x[:5, 2:3]) - (joint.log_prob(x[:5, [0, 2]]) - single.log_prob(x[:5, :1]))
    assert float(difference.abs().max()) < 100 * tolerance
    assert density.covariance.shape == (4, 4)
    assert density.sample((8,), sobol=True, generator=generator).device.type == torch.device(device).type


def test_function(device, generator):
    bases = [Legendre(0.0, 1.0, size=10), Piecewise(0.0, 1.0, size=24), Legendre(0.0, 1.0, size=10)]
    function = TTFunction.fit(lambda x: torch.sin(x.sum(1)), bases, generator=generator, device=device, tol=1e-5)
    x = torch.rand(100, 3, generator=generator, device=device, dtype=torch.float64)
    torch.testing.assert_close(function(x), torch.sin(x.sum(1)), atol=1e-4, rtol=0)
    torch.testing.assert_close(function.gradient(x)[:, 0], torch.cos(x.sum(1)), atol=1e-3, rtol=0)
