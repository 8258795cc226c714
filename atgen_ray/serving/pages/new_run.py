"""Page /new, on which a run is configured and started."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from atgen_ray.config import SelectionConfig
from atgen_ray.config.loading import list_presets, read_tree
from atgen_ray.config.reference import explain_strategies
from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.serving.pages.rendering import render
from atgen_ray.serving.pages.run_form import COLUMNS, FILES, STEPS, TASKS, build_form, copy_config
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.journal import Journal

LONGEST_NAME = 63


def new_run_pages(journal: Journal) -> APIRouter:
    """Return the route of the page, for admins."""
    router = APIRouter(include_in_schema=False)

    @router.get("/new", dependencies=[allow("admin")])
    def new_run(
        request: Request,
        preset: Annotated[str | None, Query(max_length=100)] = None,
        copied: Annotated[
            str | None, Query(alias="from", pattern=f"^{NAME_PATTERN.pattern}$")
        ] = None,
    ) -> Response:
        tree = None
        if copied and not preset:
            tree = copy_config(journal.run(copied).config, _name_copy(journal, copied))
        fields, more = build_form(preset or None, tree)
        known = list_presets()
        recommended = SelectionConfig.model_fields["strategy"].default
        return render(
            request,
            "new.html.j2",
            fields=fields,
            groups={group: found for group, found in fields.items() if group not in STEPS},
            more=more,
            preset=preset,
            copied=copied if tree else None,
            presets=known,
            files=FILES,
            columns=COLUMNS,
            tasks=TASKS,
            strategies=sorted(explain_strategies(), key=lambda each: each["name"] != recommended),
            recommended=recommended,
            models=sorted({read_tree(each)["model"]["id"] for each in known}),
        )

    return router


def _name_copy(journal: Journal, name: str) -> str:
    """Return the first free name as NAME-2."""
    stem, _, number = name.rpartition("-")
    if not (stem and number.isdigit()):
        stem = name
    for count in range(2, 10_000):
        copy = f"{stem[: LONGEST_NAME - 5]}-{count}"
        if not journal.has_run(copy):
            return copy
    return ""
