"""Liveness and readiness of the service, and its metrics for Prometheus."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from atgen_ray.engines.serve_engine import APP
from atgen_ray.serving.openapi import describe_text
from atgen_ray.serving.runs import RunManager
from atgen_ray.serving.security.roles import allow

READY_SECONDS = 5.0
KEPT_SECONDS = 1.0


def health_routes(control: RunManager) -> APIRouter:
    """Return the routes of health, which are public and say yes or no, and of metrics, for
    admins.
    """
    router = APIRouter(tags=["health"])
    # Load balancers ask often: they share one check.
    readiness = Readiness(lambda: _is_ready(control))

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Report that this replica of the API answers."""
        return {"status": "ok"}

    @router.get(
        "/readyz", responses={503: {"description": "A part of the service is not there yet"}}
    )
    async def readyz() -> JSONResponse:
        """Report whether journal, encoder and model answer, or did so a second ago."""
        ready = await readiness.find()
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    @router.get(
        "/metrics",
        dependencies=[allow("admin")],
        response_class=Response,
        responses=describe_text("text/plain"),
    )
    def metrics() -> Response:
        """Return rounds, labels, dollars and status of every run. Tokens and queues of replicas are
        in Ray's own metrics.
        """
        return Response(generate_latest(_measure(control.list())), media_type=CONTENT_TYPE_LATEST)

    return router


class Readiness:
    """Readiness of the service, cached for KEPT_SECONDS.

    However many callers ask, only one thread checks: if it hangs, no others join it.
    """

    def __init__(self, look: Callable[[], bool]) -> None:
        self._look = look
        self._looking: asyncio.Future[bool] | None = None
        self._answer: asyncio.Task[bool] | None = None
        self._answered = 0.0

    async def find(self) -> bool:
        """Return whether the service is ready; False also if the check takes READY_SECONDS."""
        if self._answer is None or (
            self._answer.done() and time.monotonic() - self._answered > KEPT_SECONDS
        ):
            self._answer = asyncio.create_task(self._find())
        # Shielded: a caller that leaves must not cancel the check for others.
        return await asyncio.shield(self._answer)

    async def _find(self) -> bool:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(run_in_threadpool(self._look))
        try:
            return await asyncio.wait_for(asyncio.shield(self._looking), READY_SECONDS)
        except Exception:  # any error means not ready
            return False
        finally:
            self._answered = time.monotonic()


def _is_ready(control: RunManager) -> bool:
    control.check()
    states = _deployment_states()
    return bool(states) and all(state == "HEALTHY" for state in states)


def _deployment_states() -> list[str]:
    from ray import serve

    application = serve.status().applications.get(APP)
    # A deployment that changes its number of replicas still answers.
    settled = {"UPDATING": "HEALTHY", "UPSCALING": "HEALTHY", "DOWNSCALING": "HEALTHY"}
    states = (
        [str(each.status.value) for each in application.deployments.values()] if application else []
    )
    starting = application is not None and application.status.value == "DEPLOYING"
    return states if starting else [settled.get(state, state) for state in states]


def _measure(rows: list[dict[str, Any]]) -> CollectorRegistry:
    registry = CollectorRegistry()
    numbers = {
        "round": Gauge("atgen_run_round", "Last round of a run", ["run"], registry=registry),
        "labels": Gauge("atgen_run_labels", "Labels of a run", ["run"], registry=registry),
        "dollars": Gauge(
            "atgen_run_dollars", "Dollars spent on labels of a run", ["run"], registry=registry
        ),
    }
    status = Gauge(
        "atgen_run_status", "1 for the status that a run has", ["run", "status"], registry=registry
    )
    for row in rows:
        for key, gauge in numbers.items():
            gauge.labels(row["name"]).set(row[key])
        status.labels(row["name"], row["status"]).set(1)
    return registry
