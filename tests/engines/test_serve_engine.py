"""Asking replicas again: only where they are gone or full, and only so often."""

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from atgen_ray.engines.serve_engine import call_again


@pytest.mark.parametrize(
    "fault", [ActorDiedError(), BackPressureError(num_queued_requests=1, max_queued_requests=1)]
)
def test_a_replica_that_is_gone_or_full_is_asked_again(fault: Exception) -> None:
    left = [fault, fault]

    def call() -> str:
        if left:
            raise left.pop()
        return "answer"

    assert call_again(call, pause=0) == "answer"


def test_it_gives_up_at_last_and_never_repeats_other_mistakes() -> None:
    tried = []

    def call(error: Exception) -> None:
        tried.append(error)
        raise error

    with pytest.raises(ActorDiedError):
        call_again(lambda: call(ActorDiedError()), attempts=3, pause=0)
    with pytest.raises(ValueError, match="no"):
        call_again(lambda: call(ValueError("no")), attempts=3, pause=0)
    assert len(tried) == 4
