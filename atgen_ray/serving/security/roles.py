"""Roles that a route requires."""

from typing import Any

from fastapi import Depends, Request

from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.security.tokens import Caller, Role


def allow(*roles: Role) -> Any:
    """Return a dependency that admits callers with one of `roles` and answers others with 403.

    Example:
        @router.get("/runs", dependencies=[allow("admin", "annotator")])
    """

    def check(request: Request) -> Caller:
        caller: Caller = request.state.caller
        if caller.role not in roles:
            raise ApiError(
                403, f"this needs the role {' or '.join(roles)}, the token has {caller.role}"
            )
        return caller

    return Depends(check)
