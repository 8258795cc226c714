"""The dashboard, the page of a run with its parts, and the comparison of several runs."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from atgen_ray.annotation.human.adjudication import count_disputes
from atgen_ray.annotation.llm.request_log import summarize_requests
from atgen_ray.config import ServiceConfig
from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.reporting.generations import Order, read_generations
from atgen_ray.reporting.plots.curves import STEPS
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.pages.rendering import render
from atgen_ray.serving.pages.run_views import RunViews
from atgen_ray.serving.runs import OVER, RunManager
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.journal import INTERRUPTED, INTERRUPTION, Journal
from atgen_ray.store.ledger import read_accounts, read_balance
from atgen_ray.store.run_folder import RunFolder

Name = Annotated[str, Path(pattern=f"^{NAME_PATTERN.pattern}$")]
Part = Literal["curves", "rounds", "time", "plan", "letters", "config"]
PARTS = {
    # What a part is called, and the steps after which it looks different.
    "curves": ("Learning curve", "evaluation"),
    "rounds": ("Rounds", "evaluation"),
    "selection": ("Selection", "selection annotation"),
    "generations": ("Generations", "evaluation"),
    "budget": ("Budget", "annotation"),
    "time": ("Time", "training evaluation"),
    "plan": ("Plan", "pool evaluation"),
    "letters": ("Dead letters", "pool generation annotation evaluation"),
    "config": ("Configuration", "pool"),
}
FOR_ADMINS = {
    "selection",
    "generations",
}  # who labels must see neither labels nor answers of others
FIRST_STEPS = ("pool", "embedding", "evaluation")  # before the first round
COMPARED = 12  # runs


def run_pages(
    service: ServiceConfig, control: RunManager, views: RunViews, journal: Journal
) -> APIRouter:
    """Pages for admins and annotators, but for parts that hold answers."""
    router = APIRouter(include_in_schema=False)
    anybody = [allow("admin", "annotator")]
    admin = [allow("admin")]

    @router.get("/", dependencies=anybody)
    def dashboard(request: Request) -> Response:
        return render(request, "dashboard.html.j2", rows=control.list()[::-1])

    @router.get("/parts/runs", dependencies=anybody)
    def dashboard_rows(request: Request) -> Response:
        return render(request, "runs.html.j2", rows=control.list()[::-1])

    @router.get("/compare", dependencies=admin)
    def compare(
        request: Request, run: Annotated[list[str], Query(min_length=2, max_length=COMPARED)]
    ) -> Response:
        names = list(dict.fromkeys(run))
        if len(names) < 2:
            raise ApiError(422, "run names one run, expected two or more")
        page = views.prepare(names)
        page.update(sections=[], names=names, linked=True)
        return render(request, "compare.html.j2", **page)

    @router.get("/runs/{name}", dependencies=anybody)
    def run_page(request: Request, name: Name) -> Response:
        admitted = request.state.caller.role == "admin"
        parts = {part: said for part, said in PARTS.items() if admitted or part not in FOR_ADMINS}
        return render(request, "run_page.html.j2", parts=parts, **_describe(journal, views, name))

    @router.get("/runs/{name}/parts/state", dependencies=anybody)
    def state(request: Request, name: Name) -> Response:
        return render(request, "state.html.j2", **_describe(journal, views, name))

    @router.get("/runs/{name}/parts/selection", dependencies=admin)
    def selection(request: Request, name: Name) -> Response:
        return render(
            request, "part.html.j2", part="selection", **views.prepare([name], selection=True)
        )

    @router.get("/runs/{name}/parts/generations", dependencies=admin)
    def generations(
        request: Request,
        name: Name,
        round: Annotated[int | None, Query(ge=0, le=10**6)] = None,
        order: Order = "worst",
        page: Annotated[int, Query(ge=1, le=10**6)] = 1,
    ) -> Response:
        view = views.prepare([name])["views"][0]
        found = read_generations(RunFolder(service.storage, name), view.metric, round, order, page)
        return render(request, "generations.html.j2", found=found, name=name, view=view)

    @router.get("/runs/{name}/parts/budget", dependencies=anybody)
    def budget(request: Request, name: Name) -> Response:
        view = views.prepare([name])["views"][0]
        balance = read_balance(journal, name)
        accounts = read_accounts(journal, name)
        sent = summarize_requests(journal, name)
        return render(
            request, "budget.html.j2", view=view, balance=balance, accounts=accounts, **sent
        )

    @router.get("/runs/{name}/parts/{part}", dependencies=anybody)
    def part(request: Request, name: Name, part: Part) -> Response:
        return render(request, "part.html.j2", part=part, **views.prepare([name]))

    return router


def _describe(journal: Journal, views: RunViews, name: str) -> dict[str, Any]:
    """How a run stands: its section of the report, its status, and the steps of its round."""
    section = views.prepare([name])["sections"][0]
    record = journal.run(name)
    events = journal.events(name)
    status = journal.describe_status(record)
    steps = [event for event in events if event.kind == "step"]
    round = max((event.round or 0 for event in steps), default=0)
    done = {event.step for event in steps if (event.round or 0) == round}
    messages = [event.payload["message"] for event in events if event.payload.get("message")]
    human = "human" in _list_types(record.config.get("annotator") or {})
    return {
        "section": section,
        "name": name,
        "status": status,
        "over": status in (*OVER, INTERRUPTED),
        "message": INTERRUPTION
        if status == INTERRUPTED
        else messages[-1]
        if messages and status in OVER
        else "",
        "round": round,
        "steps": [(step, step in done) for step in (STEPS[2:] if round else FIRST_STEPS)],
        "last": events[-1].sequence if events else 0,
        "human": human,
        "undecided": count_disputes(journal, name) if human else 0,
    }


def _list_types(annotator: dict[str, Any]) -> set[str]:
    parts = [annotator, annotator.get("first") or {}, annotator.get("then") or {}]
    return {str(part.get("type")) for part in parts}
