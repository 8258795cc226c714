"""Roles that a route requires, and the runs that its caller may see."""

from typing import Any

from fastapi import Depends, Request

from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.grants import Role, Scope

RUN = "name"  # the parameter of paths


def allow(*roles: Role, scope: Scope | tuple[Scope, ...] | None = None) -> Any:
    """Return a dependency that admits callers with one of `roles`, or whose token has `scope` (one
    of them, where there are several), and answers others with 403.

    A run in the path, which is the parameter `name` of every route that has one, must have been
    shared with the caller. Others are answered as for a run that does not exist.

    Example:
        @router.get("/runs", dependencies=[allow("admin", "annotator")])
    """

    scopes = scope if isinstance(scope, tuple) else () if scope is None else (scope,)

    def check(request: Request) -> Caller:
        caller: Caller = request.state.caller
        if caller.role not in roles and not set(scopes) & set(caller.scopes):
            raise ApiError(403, _explain(caller, roles, scopes))
        run = request.path_params.get(RUN)
        if run is not None and not caller.may_see(run):
            raise ApiError(404, f"run '{run}' is unknown")
        return caller

    return Depends(check)


def _explain(caller: Caller, roles: tuple[Role, ...], wanted: tuple[Scope, ...]) -> str:
    needed = f"the role {' or '.join(roles)}"
    needed += f" or the scope {' or '.join(wanted)}" if wanted else ""
    has = caller.role if caller.role != "program" else ""
    scopes = f"the scopes {', '.join(caller.scopes)}" if caller.scopes else ""
    return f"this needs {needed}, the token has {' and '.join(filter(None, (has, scopes)))}"
