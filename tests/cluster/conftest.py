"""A cluster that somebody else started."""

from collections.abc import Iterator

import pytest
from helpers.heads import start_head


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which `ray job` and `serve` find a head node of our own."""
    with start_head(tmp_path_factory.mktemp("head")) as environment:
        yield environment
