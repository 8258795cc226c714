"""Styles and scripts of the pages, served under a path that changes with their content, so that
browsers may cache them for ever.
"""

from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Response

from atgen_ray.core.hashing import digest
from atgen_ray.reporting.plots.theme import write_variables
from atgen_ray.serving.errors import ApiError

STATIC = "/static/"
STYLE = "style.css"
MEDIA = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
FOREVER = "public, max-age=31536000, immutable"


@cache
def read_assets() -> dict[str, bytes]:
    """Return every file by its name. The stylesheet is that of reports followed by that of the
    pages, so that both look alike.
    """
    folder = files("atgen_ray.serving.pages") / "static"
    found = {
        item.name: item.read_bytes()
        for item in folder.iterdir()
        if item.name.rpartition(".")[2] in MEDIA
    }
    report = (files("atgen_ray.reporting") / "templates/report.css").read_bytes()
    return found | {STYLE: write_variables().encode() + report + found[STYLE]}


@cache
def asset_root() -> str:
    """Return the path below which the assets are served."""
    parts = [
        part for name, content in sorted(read_assets().items()) for part in (name, b"\0", content)
    ]
    return f"{STATIC}{digest(*parts, size=8, algorithm='sha256')}"


def asset_routes() -> APIRouter:
    """Return the routes of assets, which are public: they hold no secret."""
    router = APIRouter(include_in_schema=False)

    @router.get(STATIC + "{digest}/{name}")
    def asset(digest: str, name: str) -> Response:
        content = read_assets().get(name)
        if content is None:
            raise ApiError(404, f"there is no file {name[:80]!r}")
        # A page of an older version may still ask for a file by its old path.
        keep = FOREVER if asset_root() == STATIC + digest else "no-store"
        return Response(
            content, media_type=MEDIA[name.rpartition(".")[2]], headers={"Cache-Control": keep}
        )

    return router
