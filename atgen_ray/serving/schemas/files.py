"""Responses of /v1/files, and pages of lists in the form of the OpenAI API."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.schemas.body import Body

Item = TypeVar("Item")
Limit = Annotated[int, Query(ge=1, le=10_000, description="Most entries of the page")]
After = Annotated[str | None, Query(max_length=200, description="Id of the last page's last entry")]


class ExpiresAfter(Body):
    """When a file expires: so many seconds after it was made, an hour to 30 days."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3_600, le=2_592_000)]


class FileBody(BaseModel):
    """A file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class DeletedFileBody(BaseModel):
    """A file that was deleted."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


def page(
    items: Sequence[Item], id_of: Callable[[Item], str], after: str | None, limit: int
) -> tuple[list[Item], bool]:
    """Return the entries that follow `after`, at most `limit`, and whether there are more.

    Raises:
        ApiError: 404, no entry is called `after`.
    """
    start = 0
    if after is not None:
        places = [place for place, item in enumerate(items) if id_of(item) == after]
        if not places:
            raise ApiError(404, f"after is {after[:80]!r}, expected the id of an entry of the list")
        start = places[0] + 1
    return list(items[start : start + limit]), start + limit < len(items)


def list_body(shown: Sequence[dict[str, Any]], more: bool) -> dict[str, Any]:
    """Return the list of entries in the API's form."""
    return {
        "object": "list",
        "data": list(shown),
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": more,
    }
