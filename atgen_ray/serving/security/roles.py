"""Roles that a route requires, and the runs that its caller may see."""

from typing import Any

from fastapi import Depends, Request

from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.grants import Role, Scope

RUN = "name"  # the parameter of paths


def allow(*roles: Role, scope: Scope | None = None) -> Any:
    """Return a dependency that admits callers with one of `roles`, or whose token has `scope`, and
    answers others with 403.

    A run in the path, which is the parameter `name` of every route that has one, must have been
    shared with the caller. Others are answered as for a run that does not exist.

    Example:
        @router.get("/runs", dependencies=[allow("admin", "annotator")])
    """

    def check(request: Request) -> Caller:
        caller: Caller = request.state.caller
        if caller.role not in roles and scope not in caller.scopes:
            raise ApiError(403, _explain(caller, roles, scope))
        run = request.path_params.get(RUN)
        if run is not None and not caller.may_see(run):
            raise ApiError(404, f"run '{run}' is unknown")
        return caller

    return Depends(check)


def _explain(caller: Caller, roles: tuple[Role, ...], scope: Scope | None) -> str:
    needed = f"the role {' or '.join(roles)}" + (f" or the scope {scope}" if scope else "")
    has = caller.role if caller.role != "program" else ""
    scopes = f"the scopes {', '.join(caller.scopes)}" if caller.scopes else ""
    return f"this needs {needed}, the token has {' and '.join(filter(None, (has, scopes)))}"
