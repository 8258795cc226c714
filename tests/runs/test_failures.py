"""What is said of the error that ended a run."""

import pytest

from atgen_ray.core.errors import UserError
from atgen_ray.runs.failures import explain_failure
from atgen_ray.selection import BrokenStrategyError


def explain(error: Exception) -> tuple[str, bool]:
    """What a run says that ended on `error`, raised as in a step."""
    with pytest.raises(type(error)) as caught:
        raise error
    return explain_failure(caught.value, "sort", "selection", "/runs/sort")


def test_a_broken_strategy_is_one_line_and_no_mistake_of_the_user() -> None:
    message, mistake = explain(BrokenStrategyError("strategy 'twice' picked an example twice"))
    assert message == (
        "strategy 'twice' picked an example twice: the defect is in the strategy; once it is "
        "mended, the same command goes on"
    )
    assert not mistake


def test_a_mistake_of_the_user_is_its_message() -> None:
    assert explain(UserError("data.pool is empty")) == ("data.pool is empty", True)


def test_a_file_that_somebody_removed_is_named() -> None:
    message, mistake = explain(FileNotFoundError(2, "No such file", "/runs/sort/pool.parquet"))
    assert message.startswith("/runs/sort/pool.parquet is missing")
    assert mistake


def test_anything_else_is_shown_whole() -> None:
    message, mistake = explain(ZeroDivisionError("division by zero"))
    assert message.startswith("Traceback")
    assert message.endswith("ZeroDivisionError: division by zero\n")
    assert not mistake
