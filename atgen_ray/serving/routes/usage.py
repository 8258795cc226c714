"""/v1/usage: tokens of models by caller, model and day, and what they cost."""

from datetime import UTC, date, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from atgen_ray.serving.api_files import owner_of
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.quotas import UsageBook
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.journal import Journal
from atgen_ray.store.usage import enter_trained, list_usage

Reader = Annotated[Caller, allow("admin", scope=("runs", "infer"))]


class UsageBody(BaseModel):
    """Usage by caller, model and day of UTC, the oldest first, and the caller's own quota."""

    start: date
    end: date
    data: list[dict[str, Any]]
    total: dict[str, float]
    quota: dict[str, float | None]


def usage_routes(book: UsageBook, journal: Journal, storage: str) -> APIRouter:
    """Return the route, for admins and the scopes `runs` and `infer`; a caller who is no admin sees
    the usage of the own name.
    """
    router = APIRouter(tags=["models"])

    @router.get("/v1/usage")
    def read_usage(
        caller: Reader,
        start: Annotated[date | None, Query(description="First day; null: of this month")] = None,
        end: Annotated[date | None, Query(description="Last day; null: today")] = None,
    ) -> UsageBody:
        """Show tokens of models by caller, model and day, and what they cost in dollars."""
        today = datetime.now(UTC).date()
        first, last = start or (end or today).replace(day=1), end or today
        if first > last:
            raise ApiError(400, f"start is {first}, expected {last} (end) or before", param="start")
        book.flush()
        enter_trained(journal.database, storage)
        rows = list_usage(journal.database, owner_of(caller), first, last)
        summed = ("input_tokens", "output_tokens", "trained_tokens", "dollars")
        return UsageBody(
            start=first,
            end=last,
            data=rows,
            total={name: sum(row[name] for row in rows) for name in summed},
            quota=book.find_quota(caller).model_dump(),
        )

    return router
