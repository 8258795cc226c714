"""What leaves the door when a call fails.

1. A mistake of the caller is a `UserError`: one line a mistake, whose traceback shows the call and
   nothing from inside. Raised in a worker of Ray it is the same error here.
2. A run that ends on anything else is a `RunFailedError`; what it had committed is safe.
3. Whatever else is raised is a defect of ours and keeps its traceback.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from atgen_ray.core.errors import UserError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def without_traceback(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Wrap `function` so that rule 1 of this module holds."""

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            mistake = _as_raised(error)
        # Outside the handler: the error has no context, and its traceback begins here.
        raise mistake

    return call


def _as_raised(error: UserError) -> UserError:
    """Return the error without its traceback; for an error that Ray wrapped, whose text is a
    traceback, its cause.
    """
    while isinstance(cause := getattr(error, "cause", None), UserError):
        error = cause
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
