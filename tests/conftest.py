"""Fixtures shared by all tests: the device they run on, and a seeded generator there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

SEED = 20230504


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="device the tests run on")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--device") == "cuda" and torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs --device cuda and a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device chosen with ``--device``; tests are skipped when it is not there."""
    name = request.config.getoption("--device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(name)


@pytest.fixture(autouse=True)
def global_generator() -> Iterator[None]:
    """Torch's distributions draw from the global generator only: it starts equally in every test, so that a failure can be repeated."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield


@pytest.fixture
def generator(device: torch.device) -> torch.Generator:
    """A fresh generator on `device`, equally seeded for every test."""
    return torch.Generator(device=device).manual_seed(SEED)
