"""Ray Serve application with three deployments: `api` takes requests and calls `model` and
`selector`.

`serve_configs/*.yaml` name `build_application`; their `args` are a ServiceConfig, and each
deployment takes Serve's own settings (replicas, autoscaling, resources) under `deployments`.

Example:
    serve.run(build_application({"storage": "runs"}))
"""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from pydantic import ValidationError
from ray import serve
from ray.serve.handle import DeploymentHandle

from atgen_ray import __version__
from atgen_ray.config import ServiceConfig
from atgen_ray.config.loading import database_url_from_environment
from atgen_ray.config.messages import format_validation_errors
from atgen_ray.core.errors import UserError
from atgen_ray.core.log_format import set_up_logs
from atgen_ray.core.private_files import use_private_files
from atgen_ray.engines.choice import choose_backend
from atgen_ray.engines.serve_engine import MODEL
from atgen_ray.ray_runtime.hardware import worker_environment
from atgen_ray.ray_runtime.placement import check_gpus
from atgen_ray.serving.openapi import describe_api, name_operation
from atgen_ray.serving.replicas.health import HEALTH_CHECKS
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import open_journal

# The API itself refuses what is too much, with 429; Serve's proxy would answer 503.
PENDING_AT_THE_API = 100_000

# Deployments wait for callers most of the time, and what they reserve is missing for the steps of
# runs: hence a tenth of a CPU each.
API_CPUS = 0.1
SELECTOR_CPUS = 0.1

logger = logging.getLogger(__name__)


def build_application(args: dict[str, Any]) -> serve.Application:
    """Return the application that `args` describe.

    Raises:
        UserError: `args` are wrong; one line for each mistake.
    """
    service = parse_service(args)
    selector = _deploy_selector(service)
    model = _deploy_model(service) if service.model is not None else None
    return serve.deployment(
        Api,
        name="api",
        max_ongoing_requests=PENDING_AT_THE_API,
        backpressure_config=service.limits.backpressure,
        ray_actor_options={"num_cpus": API_CPUS},
        **HEALTH_CHECKS,
    ).bind(service, selector, model)


def parse_service(args: dict[str, Any]) -> ServiceConfig:
    """Return `args` as a validated ServiceConfig; raises UserError."""
    try:
        service = ServiceConfig.model_validate(args)
    except ValidationError as error:
        raise UserError("\n".join(format_validation_errors(error, ServiceConfig))) from None
    changed: dict[str, Any] = {}
    if service.database_url is None:
        changed["database_url"] = database_url_from_environment()
    if "://" not in service.storage:  # replicas have working folders of their own
        changed["storage"] = str(Path(service.storage).expanduser().absolute())
    return service.model_copy(update=changed)


def create_api(service: ServiceConfig, selector: Any, model: Any) -> FastAPI:
    """Return the ASGI application with all routes and middleware.

    Args:
        selector: handle of the deployment `selector`.
        model: handle of the deployment `model`, or None.
    """
    from atgen_ray.serving.answers import Answers
    from atgen_ray.serving.api_files import FileDesk
    from atgen_ray.serving.auditing import Auditor
    from atgen_ray.serving.batch_rows import count_questions
    from atgen_ray.serving.batches import BatchDesk, BatchWorker
    from atgen_ray.serving.errors import add_error_handlers
    from atgen_ray.serving.metrics import RequestMetrics
    from atgen_ray.serving.middleware import AuthMiddleware
    from atgen_ray.serving.pages.assets import asset_routes
    from atgen_ray.serving.pages.audit import audit_pages
    from atgen_ray.serving.pages.displays import display_parts
    from atgen_ray.serving.pages.guidelines import guideline_pages
    from atgen_ray.serving.pages.labels import label_pages
    from atgen_ray.serving.pages.new_run import new_run_pages
    from atgen_ray.serving.pages.people import people_pages
    from atgen_ray.serving.pages.rendering import show_error
    from atgen_ray.serving.pages.run_views import RunViews
    from atgen_ray.serving.pages.runs import run_pages
    from atgen_ray.serving.pages.sign_in import session_routes
    from atgen_ray.serving.pages.task_list import task_list_pages
    from atgen_ray.serving.pages.tasks import task_pages
    from atgen_ray.serving.readiness import make_storage
    from atgen_ray.serving.replicas.adapter_directory import AdapterDirectory, name_model
    from atgen_ray.serving.request_ids import RequestIds
    from atgen_ray.serving.routes.audit import audit_routes
    from atgen_ray.serving.routes.batches import batch_routes
    from atgen_ray.serving.routes.config import config_routes
    from atgen_ray.serving.routes.deletions import deletion_routes
    from atgen_ray.serving.routes.files import file_routes
    from atgen_ray.serving.routes.fine_tuning import tuning_routes
    from atgen_ray.serving.routes.guidelines import guideline_routes
    from atgen_ray.serving.routes.health import health_routes
    from atgen_ray.serving.routes.labels import label_routes
    from atgen_ray.serving.routes.openai import model_routes
    from atgen_ray.serving.routes.people import people_routes
    from atgen_ray.serving.routes.reports import report_routes
    from atgen_ray.serving.routes.responses import response_routes
    from atgen_ray.serving.routes.runs import run_routes
    from atgen_ray.serving.routes.select import select_routes
    from atgen_ray.serving.routes.task_list import task_list_routes
    from atgen_ray.serving.routes.tasks import task_routes
    from atgen_ray.serving.routes.usage import usage_routes
    from atgen_ray.serving.runs import RunManager
    from atgen_ray.serving.security.headers import SecurityHeaders
    from atgen_ray.serving.security.login import Sessions
    from atgen_ray.serving.security.rates import ModelBudget
    from atgen_ray.serving.tuning import TuningDesk
    from atgen_ray.store.audit import AuditLog

    make_storage(service.storage)
    journal = open_journal(service.storage, service.database_url)
    tokens = Tokens(journal.database)
    sessions = Sessions(journal.database)
    auditor = Auditor(AuditLog(journal.database))
    budget = ModelBudget(journal.database, usage=service.usage)
    control = RunManager(service, journal)
    directory = None
    if service.model is not None:
        directory = AdapterDirectory(service.model, service.model_name, service.storage, journal)
    # FastAPI's own documentation pages load scripts from other hosts, hence no URLs for them.
    app = FastAPI(
        title="atgen-ray",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=name_operation,
    )
    describe_api(app)
    add_error_handlers(app, service.limits.retry_after, show_error)
    metrics = RequestMetrics()
    app.include_router(health_routes(control, journal, service.storage, metrics))
    app.include_router(select_routes(service, selector))
    app.include_router(run_routes(control))
    app.include_router(task_routes(journal))
    app.include_router(guideline_routes(journal))
    app.include_router(task_list_routes(journal, service.storage))
    app.include_router(label_routes(journal, service.storage))
    app.include_router(people_routes(journal))
    app.include_router(deletion_routes(journal, service.storage))
    app.include_router(config_routes(service, control, journal))
    app.include_router(report_routes(control))
    encoder = name_model(service.embedding.model)
    answers = Answers(directory, model, selector, encoder, budget)
    app.include_router(model_routes(directory, model, encoder, answers))
    app.include_router(response_routes(model, answers))
    files = FileDesk(journal, service.storage, service.limits, count_questions)
    app.include_router(file_routes(files, service.limits.uploads))
    tuning = TuningDesk(service, journal, control, directory, files, budget.book)
    app.include_router(tuning_routes(tuning))
    app.include_router(usage_routes(budget.book, journal, service.storage))
    app.include_router(batch_routes(BatchDesk(journal, files, answers)))
    app.include_router(asset_routes())
    app.include_router(session_routes(tokens, sessions, auditor))
    app.include_router(people_pages(journal, sessions, auditor))
    app.include_router(new_run_pages(journal))
    app.include_router(label_pages(journal))
    app.include_router(task_pages(journal))
    app.include_router(guideline_pages(journal))
    app.include_router(display_parts(journal))
    app.include_router(task_list_pages(journal, service.storage))
    app.include_router(run_pages(service, control, RunViews(service, journal), journal))
    app.include_router(audit_routes(auditor))
    app.include_router(audit_pages(auditor))
    app.add_middleware(
        AuthMiddleware,
        tokens=tokens,
        sessions=sessions,
        auditor=auditor,
        limits=service.limits,
        proxies=tuple(service.proxies),
    )
    app.router.add_event_handler("shutdown", auditor.flush)
    app.router.add_event_handler("shutdown", budget.flush)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestIds, metrics=metrics)
    app.state.runs = control
    app.state.batches = BatchWorker(journal, service.storage, files, answers)
    return app


@serve.ingress()
class Api:
    """One replica of the HTTP API."""

    def __init__(
        self, service: ServiceConfig, selector: DeploymentHandle, model: DeploymentHandle | None
    ) -> None:
        from atgen_ray.serving.middleware import start_access_log

        use_private_files()
        self._service = service
        self._selector = selector
        self._model = model
        set_up_logs()
        start_access_log()

    async def check_health(self) -> None:
        """Return at once. Serve replaces the replica if it does not, since its event loop hangs
        then.
        """

    async def __serve_build_asgi_app__(self) -> FastAPI:
        app = create_api(self._service, self._selector, self._model)
        self._batches = asyncio.create_task(app.state.batches.watch())
        if self._service.resume_runs:
            app.state.runs.keep_going()
        app.state.runs.keep_tidy()
        return app


def _deploy_selector(service: ServiceConfig) -> serve.Application:
    from atgen_ray.serving.replicas.selector import Selector

    return serve.deployment(
        Selector,
        name="selector",
        max_ongoing_requests=2,
        max_queued_requests=service.limits.queued_selects,
        backpressure_config=service.limits.backpressure,
        ray_actor_options={
            "num_cpus": SELECTOR_CPUS,
            "runtime_env": {"env_vars": _environment(service)},
        },
        **HEALTH_CHECKS,
    ).bind(service)


def _deploy_model(service: ServiceConfig) -> serve.Application:
    if service.engine.gpus_per_worker and ray.is_initialized():
        check_gpus("engine.gpus_per_worker", service.engine.gpus_per_worker)
    backend = choose_backend(service.engine.backend)
    if backend == "vllm":
        from atgen_ray.serving.replicas.vllm import deploy_vllm

        return deploy_vllm(service)
    if backend == "sglang":
        from atgen_ray.serving.replicas.sglang import deploy_sglang

        return deploy_sglang(service)
    from atgen_ray.serving.replicas.base import TransformersReplica

    gpus = service.engine.gpus_per_worker or 0
    return serve.deployment(
        TransformersReplica,
        name=MODEL,
        # Twice what it decodes at once, so that the next batch is here when one ends.
        max_ongoing_requests=2 * service.replica.count_slots("transformers"),
        max_queued_requests=service.limits.queued_prompts,
        backpressure_config=service.limits.backpressure,
        ray_actor_options={
            "num_cpus": service.engine.cpus_per_worker,
            "num_gpus": gpus,
            "runtime_env": {"env_vars": _environment(service)},
        },
        **HEALTH_CHECKS,
    ).bind(service)


def _environment(service: ServiceConfig) -> dict[str, str]:
    """Return variables that bound the threads of a worker and keep it offline if this process
    is. A worker without a bound counts the cores of its own node, and has that node's cache of the
    hub.
    """
    passed = {key: os.environ[key] for key in ("HF_HUB_OFFLINE",) if key in os.environ}
    return worker_environment(service.engine.threads_per_worker) | passed
