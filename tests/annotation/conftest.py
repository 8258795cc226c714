"""Fixtures for annotating models."""

from collections.abc import Iterator

import pytest
from helpers.fakes.provider import FakeProvider, run_provider


@pytest.fixture(scope="session")
def provider_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeProvider]:
    """One stand-in for all tests."""
    with run_provider(tmp_path_factory.mktemp("provider")) as provider:
        yield provider


@pytest.fixture
def provider(provider_process: FakeProvider) -> FakeProvider:
    """A stand-in that has billed nothing and does not fail."""
    provider_process.reset()
    return provider_process
