"""Liveness and readiness of the service, and its metrics for Prometheus."""

from functools import partial

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from atgen_ray.serving.metrics import RequestMetrics, RunCollector
from atgen_ray.serving.openapi import describe_text
from atgen_ray.serving.readiness import Readiness, check_replicas, check_storage
from atgen_ray.serving.runs import RunManager
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.journal import Journal


def health_routes(
    control: RunManager, journal: Journal, storage: str, requests: RequestMetrics
) -> APIRouter:
    """Return the routes of health, which are public and name no more than what fails, and of
    metrics, for admins.
    """
    router = APIRouter(tags=["health"])
    readiness = Readiness(
        {
            "database": control.check,
            "storage": partial(check_storage, storage),
            "replicas": check_replicas,
            "resumption": control.check_resumption,
        }
    )

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Report that this replica of the API answers, whatever it depends on."""
        return {"status": "ok"}

    @router.get("/readyz", responses={503: {"description": "A part of the service is not there"}})
    async def readyz() -> JSONResponse:
        """Report whether database, storage, replicas and the watch over interrupted runs can be
        used, or could be a second ago; `failing` names those that cannot.
        """
        failing = await readiness.find()
        if failing:
            return JSONResponse({"status": "not ready", "failing": sorted(failing)}, 503)
        return JSONResponse({"status": "ready"})

    @router.get(
        "/metrics",
        dependencies=[allow("admin")],
        response_class=Response,
        responses=describe_text("text/plain"),
    )
    async def metrics() -> Response:
        """Return the metrics of all runs, and those of this replica's requests. Tokens and queues
        of replicas are in Ray's own metrics.
        """
        failing = await readiness.find()
        found = {name: name in failing for name in readiness.names}
        runs = CollectorRegistry(auto_describe=False)
        runs.register(RunCollector(journal, storage, found))
        # Two texts of the format of Prometheus are one.
        texts = [
            await run_in_threadpool(generate_latest, each) for each in (runs, requests.registry)
        ]
        return Response(b"".join(texts), media_type=CONTENT_TYPE_LATEST)

    return router
