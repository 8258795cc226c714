"""/api/v1/runs: start, list, show, stop, resume, rename, archive, remove, metrics, events,
export.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.runs.queries import DEAD_LETTERS
from atgen_ray.serving.auditing import note
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.openapi import describe_files, describe_text
from atgen_ray.serving.routes.event_stream import EventStream
from atgen_ray.serving.runs import RunManager
from atgen_ray.serving.schemas.body import Body, Tree
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.roles import allow

Name = Annotated[str, Path(pattern=f"^{NAME_PATTERN.pattern}$", description="Name of the run")]
Reader = Annotated[Caller, allow("admin", "annotator", scope="runs")]
After = Annotated[
    int, Query(ge=0, le=2**31, description="Only events with a higher sequence number")
]
MEDIA = {
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv",
    "huggingface": "application/zip",
    "openai": "application/x-ndjson",
}
PACKED = {  # beside labels: media type, and the ending of the file
    "dataset": ("application/zip", "zip"),
    "adapter": ("application/zip", "zip"),
    "card": ("text/markdown", "md"),
}


class RunBody(BaseModel):
    """State of a run."""

    name: str
    status: str
    round: int
    labels: int
    dollars: float | None = Field(description="Null for annotators")
    updated: str
    title: str | None = Field(description="Shown in place of the name; null: the name")
    archived: bool = Field(description="Whether lists leave the run out")
    metric: str | None = Field(None, description="Metric that the run is steered by")
    score: float | None = Field(None, description="Its mean in the last round that has one")


class RunViewBody(RunBody):
    """One run with its learning curve, events, annotation and dead letters."""

    message: str
    metrics: list[dict[str, Any]]
    events: list[dict[str, Any]]
    dead_letters: list[dict[str, Any]] = Field(
        description=f"The first {DEAD_LETTERS:,}: round, id, step, reason"
    )
    dead_letter_count: int = Field(description="Number of all dead letters")
    annotation: dict[str, Any] = Field(
        description="Requests of annotating models by state, their batches under way, dollars "
        "paid, held and inherited"
    )
    changes: list[dict[str, Any]] = Field(
        description="Settings that the run was given anew: key, before, now, by, time"
    )
    added: list[dict[str, Any]] = Field(
        description="Rows that it was given later: time, source, by, offered, added, known, test, "
        "repeated, unusable, reasons, and the round before which the pool took them"
    )
    growths: list[dict[str, Any]] = Field(
        description="When the pool took them: round, time, before, added, near_duplicates, known"
    )


class TitleBody(Body):
    """Title of a run."""

    title: str | None = Field(
        description="One line of 1 to 120 characters; null takes the title away"
    )


class ArchivedBody(Body):
    """Whether lists leave a run out."""

    archived: bool


class PromotionBody(Body):
    """The adapter that the run's name is to stand for."""

    round: int = Field(ge=1, le=999_999, description="Round that trained it")
    metric: str | None = Field(
        None, max_length=200, description="Score to compare; null: the run's first one"
    )
    force: bool = Field(False, description="Even if it is shown to be worse")


class AdditionBody(Body):
    """Rows for the pool of a run."""

    source: str = Field(
        max_length=4096, description="An upload, or a file, folder, glob or URL below data_roots"
    )


class RemovalBody(Body):
    """Confirmation that a run is to be removed for ever."""

    confirm: str = Field(max_length=200, description="The name of the run")


class StartedBody(BaseModel):
    """A run that was started or resumed, or a request to stop."""

    name: str
    message: str = Field(description="What will happen")


def run_routes(control: RunManager) -> APIRouter:
    """Return the routes of runs: admins may do everything, the scope `runs` everything with its own
    runs but remove them, and annotators may read of theirs what is neither money nor a setting.
    """
    router = APIRouter(prefix="/api/v1/runs", tags=["runs"])
    admin = [allow("admin")]
    leader = [allow("admin", scope="runs")]

    @router.post("", status_code=202, dependencies=leader)
    def start_run(request: Request, config: Tree) -> StartedBody:
        """Start the run that a configuration describes (the keys of its YAML file). The same
        configuration again resumes the run.
        """
        name = config.get("name")
        if isinstance(name, str):
            note(request, run=name)
        name = control.start(config, request.state.caller)
        note(request, run=name)
        return StartedBody(name=name, message="the run goes on without its caller")

    @router.get("")
    def list_runs(caller: Reader) -> list[RunBody]:
        """List the runs that the caller may see, the oldest first, archived ones too."""
        return [RunBody(**row) for row in control.list(caller)]

    @router.get("/{name}")
    def show_run(name: Name, caller: Reader) -> RunViewBody:
        """Show one run."""
        return RunViewBody(**control.show(name, caller))

    @router.post("/{name}/stop", status_code=202, dependencies=leader)
    def stop_run(name: Name) -> StartedBody:
        """Ask the run to stop, or end it at once where its controller is gone; everything committed
        is saved.
        """
        return StartedBody(name=name, message=control.stop(name))

    @router.post("/{name}/resume", status_code=202, dependencies=leader)
    def resume_run(name: Name) -> StartedBody:
        """Continue a run that was stopped, or whose cluster died."""
        control.resume(name)
        return StartedBody(name=name, message="the run goes on without its caller")

    @router.post("/{name}/retry", status_code=202, dependencies=leader)
    def retry_run(
        name: Name, only: Literal["refused", "dead", "in-doubt"] | None = None
    ) -> StartedBody:
        """Open what a model left without a label, so that it is asked again, and continue the run;
        `only` what ended in that way.
        """
        return StartedBody(name=name, message=control.retry(name, only))

    @router.post("/{name}/rows", status_code=202, dependencies=leader)
    def add_rows(request: Request, name: Name, body: AdditionBody) -> StartedBody:
        """Add rows to the run's pool, without those that it has; it takes them before its next
        round. 409: none of them is new.
        """
        return StartedBody(name=name, message=control.add(name, body.source, request.state.caller))

    @router.put("/{name}/title", dependencies=leader)
    def rename_run(name: Name, body: TitleBody) -> StartedBody:
        """Give the run a title, which pages show in place of its name. The name stays: it is in the
        paths of files, adapters and addresses.
        """
        control.rename(name, body.title)
        return StartedBody(name=name, message=f"the run is called {body.title or name}")

    @router.put("/{name}/archived", dependencies=leader)
    def archive_run(name: Name, body: ArchivedBody) -> StartedBody:
        """Leave the run out of the list of runs, or show it there again; nothing else changes."""
        control.archive(name, body.archived)
        where = "is archived" if body.archived else "is in the list again"
        return StartedBody(name=name, message=f"the run {where}")

    @router.put("/{name}/promoted", dependencies=leader)
    def promote_round(request: Request, name: Name, body: PromotionBody) -> StartedBody:
        """Let the model's name `<base>:<run>` answer with the adapter of a round, at once. 409: its
        score is shown to be worse than that of what it replaces.
        """
        note(request, target=f"round {body.round}", force=body.force)
        message = control.promote(name, body.round, body.metric, body.force)
        return StartedBody(name=name, message=message)

    @router.delete("/{name}/promoted", dependencies=leader)
    def take_promotion_back(name: Name) -> StartedBody:
        """Go back to the adapter that was promoted before."""
        return StartedBody(name=name, message=control.take_promotion_back(name))

    @router.delete("/{name}", dependencies=admin)
    def remove_run(name: Name, body: RemovalBody) -> StartedBody:
        """Remove a run that does not go on, for ever: its labels, its journal, its folder and its
        adapters, which the service then serves no more.
        """
        control.remove(name, body.confirm)
        return StartedBody(name=name, message="the run is removed")

    @router.get("/{name}/metrics")
    def run_metrics(name: Name, caller: Reader) -> list[dict[str, Any]]:
        """Return the learning curve, a row a round."""
        metrics: list[dict[str, Any]] = control.show(name, caller)["metrics"]
        return metrics

    @router.get(
        "/{name}/events",
        status_code=200,
        response_class=EventStream,
        responses=describe_text("text/event-stream"),
    )
    def run_events(
        name: Name,
        caller: Reader,
        after: After = 0,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Any:
        """Stream the run's events as server-sent events, from the first or after Last-Event-ID,
        until the run is over.
        """
        # A browser that reconnects sends the number of the last event it has.
        if last_event_id is not None:
            if not (
                last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 10
            ):
                raise ApiError(400, "Last-Event-ID is no sequence number of an event")
            after = int(last_event_id)
        return EventStream(control.events(name, after, caller))

    @router.get(
        "/{name}/export",
        dependencies=leader,
        response_class=Response,
        responses=describe_files(*dict.fromkeys(MEDIA.values()), "text/markdown"),
    )
    def export_run(
        request: Request,
        name: Name,
        format: Literal["jsonl", "parquet", "csv", "huggingface", "openai"] = "jsonl",
        what: Literal["labels", "dataset", "adapter", "card"] = "labels",
        round: Annotated[int | None, Query(ge=1, description="Of adapter and card")] = None,
    ) -> Response:
        """Download the labelled set as a file; a Hugging Face dataset is packed as zip. Or a data
        set or the adapter, each with its card, as zip; or the card of the model.

        Merged weights and GGUF files are made by the command line, which loads the model.
        """
        by = request.state.caller.name
        if what != "labels":
            media, ending = PACKED[what]
            disposition = {"Content-Disposition": f'attachment; filename="{name}-{what}.{ending}"'}
            parts = control.pack(name, what, round, by)
            return StreamingResponse(parts, media_type=media, headers=disposition)
        ending = {"huggingface": "zip", "openai": "openai.jsonl"}.get(format, format)
        disposition = {"Content-Disposition": f'attachment; filename="{name}.{ending}"'}
        return Response(
            control.export(name, format, by), media_type=MEDIA[format], headers=disposition
        )

    return router
