"""Selections too large to wait for: each a folder with what was asked, a detached actor that works,
and a result.

The folder is all that counts. Whoever asks for a job whose actor is gone starts it again: nothing
is spoilt by that.
"""

import threading
import traceback
from typing import Any
from uuid import uuid4

import ray

from atgen_ray.config import ServiceConfig
from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.ray_runtime.hardware import fit_cpus
from atgen_ray.ray_runtime.session import NAMESPACE, start_ray
from atgen_ray.serving.errors import ApiError, explain
from atgen_ray.serving.replicas.selector import Selector
from atgen_ray.serving.schemas.select import SelectBody
from atgen_ray.store.run_folder import RunFolder

REQUEST = "request.json"
RESULT = "result.json"
PREFIX = "selection-"


class SelectionJobs:
    """The jobs of one service; kept under `<storage>/selections`."""

    def __init__(self, service: ServiceConfig) -> None:
        self._service = service

    def start(self, body: SelectBody) -> str:
        """The handle of a new job.

        Raises:
            ApiError: 429, as many jobs as the service allows are under way.
        """
        start_ray()
        limit = self._service.limits.background_selects
        if _count_jobs() >= limit:
            raise ApiError(429, f"{limit} selections are under way in the background already")
        job = f"{PREFIX}{uuid4().hex}"
        self._folder(job).write_json(REQUEST, body.model_dump(mode="json"))
        self._work(job)
        return job

    def find(self, job: str) -> dict[str, Any]:
        """SelectionBody of the job as it stands.

        Raises:
            ApiError: 404, there is no such job.
        """
        folder = self._folder(job)
        if not folder.exists(REQUEST):
            raise ApiError(404, f"job '{job}' is unknown")
        if folder.exists(RESULT):
            return {"job": job} | dict(folder.read_json(RESULT))
        start_ray()
        self._work(job)
        return {"status": "running", "job": job}

    def _folder(self, job: str) -> RunFolder:
        if not (NAME_PATTERN.fullmatch(job) and job.startswith(PREFIX)):
            raise ApiError(404, "expected the handle of a job, selection-...")
        return RunFolder(f"{self._service.storage.rstrip('/')}/selections", job)

    def _work(self, job: str) -> None:
        SelectionActor.options(  # type: ignore[attr-defined]
            name=job,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=fit_cpus(1, 0.1),
            max_restarts=-1,
        ).remote(self._service, self._folder(job))


def _count_jobs() -> int:
    """Jobs that an actor works on; each is a process of its own."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    return sum(
        actor["namespace"] == NAMESPACE and actor["name"].startswith(PREFIX) for actor in actors
    )


@ray.remote
class SelectionActor:
    """Does one selection and ends."""

    def __init__(self, service: ServiceConfig, folder: RunFolder) -> None:
        self._service = service
        self._folder = folder
        threading.Thread(target=self._select, name="selection", daemon=True).start()

    def _select(self) -> None:

        try:
            body = SelectBody.model_validate(self._folder.read_json(REQUEST))
            result = {"status": "finished", "selected": Selector(self._service).select_now(body)}
        except Exception as error:  # the boundary of the actor: whoever asks for the job is told
            meaning = explain(error)
            if meaning is None:
                traceback.print_exc()
            message = meaning[1] if meaning else traceback.format_exc().strip().splitlines()[-1]
            result = {"status": "failed", "message": message}
        try:
            self._folder.write_json(RESULT, result)
        finally:  # with no result, whoever asks for the job starts it again
            ray.kill(ray.get_runtime_context().current_actor, no_restart=True)
