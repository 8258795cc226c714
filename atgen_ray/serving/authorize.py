"""Which roles a route is for."""

from typing import Any

from fastapi import Depends, Request

from atgen_ray.serving.access import Caller, Role
from atgen_ray.serving.faults import Fault


def allow(*roles: Role) -> Any:
    """A dependency that lets callers with one of `roles` through and gives others 403."""

    def check(request: Request) -> Caller:
        caller: Caller = request.state.caller
        if caller.role not in roles:
            raise Fault(403, f"this needs the role {' or '.join(roles)}, the token has {caller.role}")
        return caller

    return Depends(check)
