"""The page on which people label, and the one on which an admin settles what they disagree on."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from atgen_ray.annotation.human.adjudication import list_disputes
from atgen_ray.annotation.human.progress import measure_team
from atgen_ray.annotation.human.task_store import open_task_store
from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.reporting.strategy_texts import explain_strategy
from atgen_ray.serving.pages.rendering import render
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.journal import Journal

Name = Annotated[str, Path(pattern=f"^{NAME_PATTERN.pattern}$")]


def task_pages(journal: Journal) -> APIRouter:
    """Labelling is for annotators and admins, disputes are for admins."""
    router = APIRouter(include_in_schema=False)

    @router.get("/annotate/{name}", dependencies=[allow("admin", "annotator")])
    def annotate(request: Request, name: Name) -> Response:
        guidelines = open_task_store(journal, name).config.guidelines
        config = journal.run(name).config
        selection = config.get("selection") or {}
        names = [(selection.get("first") or {}).get("strategy"), selection.get("strategy")]
        values: dict[str, Any] = {
            "name": name,
            "guidelines": guidelines or _describe_prompt(config),
        }
        values["strategies"] = [
            vars(explain_strategy(each)) | {"name": each} for each in names if each
        ]
        return render(request, "annotate.html.j2", **values)

    @router.get("/annotate/{name}/disputes", dependencies=[allow("admin")])
    def disputes(request: Request, name: Name) -> Response:
        found: dict[str, Any] = {
            "disputes": list_disputes(journal, name),
            "team": measure_team(journal, name),
        }
        return render(request, "disputes.html.j2", name=name, **found)

    return router


def _describe_prompt(config: dict[str, Any]) -> str:
    """What the model is told, where nobody wrote guidelines for people."""
    prompt = config.get("prompt") or {}
    template = prompt.get("template", "")
    parts = [prompt.get("system") or "", "" if template.strip() == "{{ input }}" else template]
    return "\n\n".join(part for part in parts if part)
