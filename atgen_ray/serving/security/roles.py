"""Which roles a route is for."""

from typing import Any

from fastapi import Depends, Request

from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.security.tokens import Caller, Role


def allow(*roles: Role) -> Any:
    """A dependency that lets callers with one of `roles` through and gives others 403."""

    def check(request: Request) -> Caller:
        caller: Caller = request.state.caller
        if caller.role not in roles:
            raise ApiError(
                403, f"this needs the role {' or '.join(roles)}, the token has {caller.role}"
            )
        return caller

    return Depends(check)
