"""Dashboard, the page of a run with its parts, and the comparison of several runs."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from atgen_ray.annotation.human.lead.adjudication import count_disputes
from atgen_ray.annotation.human.progress import count_open
from atgen_ray.annotation.llm.request_counts import summarize_requests
from atgen_ray.config import ServiceConfig
from atgen_ray.config.annotation import list_stored
from atgen_ray.core.credentials import redact
from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.core.strict_json import encode_json
from atgen_ray.reporting.generations import Order, read_generations
from atgen_ray.reporting.plots.curves import STEPS
from atgen_ray.reporting.sections import RunSection
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.pages.rendering import render
from atgen_ray.serving.pages.run_views import RunViews
from atgen_ray.serving.runs import OVER, RunManager
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.grants import to_iso
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.events import list_last_events
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import read_accounts, read_balance
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.run_records import INTERRUPTED, explain_end

Name = Annotated[str, Path(pattern=f"^{NAME_PATTERN.pattern}$")]
Part = Literal["rounds", "time", "plan", "letters", "config"]
Reader = Annotated[Caller, allow("admin", "annotator")]
PARTS = {
    # Title of a part, and the steps after which its content changes.
    "curves": ("Learning curve", "evaluation"),
    "rounds": ("Rounds", "evaluation"),
    "selection": ("Selection", "selection annotation"),
    "generations": ("Generations", "evaluation"),
    "budget": ("Budget", "annotation"),
    "time": ("Time", "training evaluation"),
    "plan": ("Plan", "pool evaluation"),
    "letters": ("Dead letters", "pool generation annotation evaluation"),
    "log": ("Log", "pool embedding generation selection annotation training evaluation"),
    "config": ("Configuration", "pool"),
}
# Annotators must see neither answers of others nor money nor settings.
FOR_ANNOTATORS = {"curves"}
OPEN = {"curves"}  # until somebody opens or closes parts
LOGGED = 300  # events, the latest
LONGEST_LINE = 2000  # characters of an event
FIRST_STEPS = ("pool", "embedding", "evaluation")  # before the first round
COMPARED = 12  # runs


def run_pages(
    service: ServiceConfig, control: RunManager, views: RunViews, journal: Journal
) -> APIRouter:
    """Return the routes of the pages. Annotators see of the runs that were shared with them the
    state and the learning curve; all other parts are for admins.
    """
    router = APIRouter(include_in_schema=False)
    anybody = [allow("admin", "annotator")]
    admin = [allow("admin")]

    @router.get("/")
    def dashboard(request: Request, caller: Reader, archived: bool = False) -> Response:
        return render(request, "dashboard.html.j2", **_list(control, journal, caller, archived))

    @router.get("/parts/runs")
    def dashboard_rows(request: Request, caller: Reader, archived: bool = False) -> Response:
        return render(request, "runs.html.j2", **_list(control, journal, caller, archived))

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
        admin_calls = request.state.caller.role == "admin"
        parts = {key: part for key, part in PARTS.items() if admin_calls or key in FOR_ANNOTATORS}
        found = _describe(service, journal, views, name)
        steps = journal.committed_steps(name) if admin_calls else ()
        tuned = any(step == "training" for _, step in steps)
        return render(request, "run_page.html.j2", parts=parts, open=OPEN, tuned=tuned, **found)

    @router.get("/runs/{name}/parts/state", dependencies=anybody)
    def state(request: Request, name: Name) -> Response:
        return render(request, "state.html.j2", **_describe(service, journal, views, name))

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

    @router.get("/runs/{name}/parts/budget", dependencies=admin)
    def budget(request: Request, name: Name) -> Response:
        view = views.prepare([name])["views"][0]
        balance = read_balance(journal, name)
        accounts = read_accounts(journal, name)
        sent = summarize_requests(journal, name)
        return render(
            request, "budget.html.j2", view=view, balance=balance, accounts=accounts, **sent
        )

    @router.get("/runs/{name}/parts/log", dependencies=admin)
    def log(request: Request, name: Name) -> Response:
        views.prepare([name])  # a run that is unknown is told so
        return render(request, "log.html.j2", **_read_log(journal, name))

    @router.get("/runs/{name}/parts/curves")
    def curves(request: Request, name: Name, caller: Reader) -> Response:
        page = views.prepare([name])
        if caller.role != "admin":
            page["sections"] = [_CurvesWithoutMoney(page["sections"][0])]
        return render(request, "part.html.j2", part="curves", **page)

    @router.get("/runs/{name}/parts/{part}", dependencies=admin)
    def part(request: Request, name: Name, part: Part) -> Response:
        return render(request, "part.html.j2", part=part, **views.prepare([name]))

    return router


class _CurvesWithoutMoney:
    """The learning curves of a run as annotators see them: not over dollars."""

    def __init__(self, section: RunSection) -> None:
        self.view = section.view
        self.letter = section.letter
        self.curves = [
            (metric, [panel for panel in panels if panel.axis != "dollars"])
            for metric, panels in section.curves
        ]


def _list(control: RunManager, journal: Journal, caller: Caller, archived: bool) -> dict[str, Any]:
    """Return the runs that the caller may see, the newest first, and how many of them are
    archived; those are left out unless `archived`. For annotators each has what is `open` to them.
    """
    rows = control.list(caller)[::-1]
    shown = [row for row in rows if archived or not row["archived"]]
    if caller.role != "admin":
        shown = [
            row | {"open": count_open(journal, row["name"], caller.name, caller.groups)}
            for row in shown
        ]
    return {"rows": shown, "hidden": len(rows) - len(shown), "archived": archived}


def _read_log(journal: Journal, name: str) -> dict[str, Any]:
    """Return the latest events of the run as lines, the newest first, and their number."""
    with journal.database.reading() as connection:
        found = list_last_events(connection, name, LOGGED)
    lines = [
        {
            "time": to_iso(event.time),
            "kind": event.kind,
            "where": f"round {event.round}" if event.round else "",
            "step": event.step or "",
            "seconds": event.seconds,
            "text": redact(_tell(event.payload))[:LONGEST_LINE],
        }
        for event in found
    ]
    return {"lines": lines, "total": journal.last_sequence(name)}


def _tell(payload: dict[str, Any]) -> str:
    """Return what an event says: its message, or its values one by one."""
    if set(payload) == {"message"}:
        return str(payload["message"])
    return ", ".join(
        f"{key.replace('_', ' ')}: {value if isinstance(value, str) else encode_json(value)}"
        for key, value in payload.items()
        if value is not None
    )


def _describe(
    service: ServiceConfig, journal: Journal, views: RunViews, name: str
) -> dict[str, Any]:
    """Return the state of a run: its section of the report, its status, and the steps of its
    round.
    """
    section = views.prepare([name])["sections"][0]
    record = journal.run(name)
    events = journal.events(name)
    status = journal.describe_status(record)
    # The steps shown are those of the last round that has committed one.
    steps = [event for event in events if event.is_step]
    round = max((event.round or 0 for event in steps), default=0)
    done = {event.step for event in steps if (event.round or 0) == round}

    human = any(part.get("type") == "human" for part in list_stored(record.config))
    return {
        "section": section,
        "name": name,
        "title": record.title or name,
        "archived": record.archived is not None,
        "asked": journal.is_asked_to_stop(name),
        "resumes": service.resume_runs and bool(record.served),
        "status": status,
        "over": status in (*OVER, INTERRUPTED),
        "message": explain_end(status, events),
        "round": round,
        "steps": [(step, step in done) for step in (STEPS[2:] if round else FIRST_STEPS)],
        "last": events[-1].sequence if events else 0,
        "human": human,
        "undecided": count_disputes(journal, name) if human else 0,
    }
