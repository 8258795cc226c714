"""/api/v1/select: query endpoint, with which other tools select examples to label."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool

from atgen_ray.config import ServiceConfig
from atgen_ray.core.records import SAMPLES
from atgen_ray.selection import find_needs
from atgen_ray.serving.replicas.selection_jobs import SelectionJobs
from atgen_ray.serving.schemas.select import SelectBody, SelectionBody
from atgen_ray.serving.security.roles import allow


def is_large(service: ServiceConfig, body: SelectBody) -> bool:
    """Return whether the selection must be a job: it would take too long for a waiting caller."""
    needs = find_needs(body.strategy, body.parameters)
    if body.examples is None or "states" in needs:
        return True
    # The tokens that the model may have to generate decide, or else the number of examples.
    outputs = SAMPLES + 1 if "samples" in needs else int("generations" in needs)
    tokens = len(body.examples) * outputs * (service.model.max_new_tokens if service.model else 0)
    examples = len(body.examples) + len(body.labeled)
    return examples > service.limits.inline_examples or tokens > service.limits.inline_tokens


def select_routes(service: ServiceConfig, selector: Any) -> APIRouter:
    """Return the routes, for admins and the scope `select`. `selector` is the handle of the
    deployment `selector`.
    """
    router = APIRouter(prefix="/api/v1/select", tags=["select"])
    jobs = SelectionJobs(service)

    @router.post(
        "", dependencies=[allow("admin", scope="select")], responses={202: {"model": SelectionBody}}
    )
    async def select(body: SelectBody, response: Response) -> SelectionBody:
        """Select the examples worth labelling, best first; a large request becomes a job (202)."""
        if body.background or is_large(service, body):
            response.status_code = 202
            return SelectionBody(status="running", job=await run_in_threadpool(jobs.start, body))
        return SelectionBody(status="finished", selected=await selector.select.remote(body))

    @router.get("/{job}", dependencies=[allow("admin", scope="select")])
    def find_job(job: str) -> SelectionBody:
        """Show a background job, with its result once it is finished."""
        return SelectionBody(**jobs.find(job))

    return router
