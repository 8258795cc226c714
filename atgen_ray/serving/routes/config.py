"""/api/v1/configs and /api/v1/uploads: check and plan a configuration before it is started, and
upload files for it.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field, JsonValue

from atgen_ray.config import ServiceConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.schema import merge_trees
from atgen_ray.core.strict_yaml import parse_yaml
from atgen_ray.serving.runs import RunManager
from atgen_ray.serving.schemas.body import Body
from atgen_ray.serving.security.roles import allow
from atgen_ray.serving.uploads import BINARY, UPLOADS, receive_upload

Tree = dict[str, JsonValue]


class ConfigDraftBody(Body):
    """A configuration that is being written."""

    config: Tree = Field(default_factory=dict, description="Keys of a configuration file")
    more: str = Field(
        "", max_length=200_000, description="Further keys in YAML; `config` goes before them"
    )


class MistakeBody(BaseModel):
    """A mistake of one key."""

    key: str = Field(description="Dotted key; empty where no one key is wrong")
    message: str = Field(
        description="The key, its value, what was expected and the nearest valid choice"
    )


class CheckedBody(BaseModel):
    """The whole tree, and its mistakes."""

    config: Tree
    mistakes: list[MistakeBody]


class UploadBody(BaseModel):
    """Location of an upload, for `data.pool` or `data.test`."""

    location: str
    columns: list[str] = Field(description="Of the first row; dots reach into nested ones")


def config_routes(service: ServiceConfig, control: RunManager) -> APIRouter:
    """Return the routes of configurations and uploads, for admins."""
    router = APIRouter(tags=["configs"], dependencies=[allow("admin")])

    @router.post("/api/v1/configs/check")
    def check_config(draft: ConfigDraftBody) -> CheckedBody:
        """Return every mistake in the configuration of a new run, by its key; start nothing."""
        # Fields of the form go before the YAML beside them.
        try:
            tree = merge_trees(read_more(draft.more), draft.config)
        except UserError as error:
            return CheckedBody(
                config=draft.config, mistakes=[MistakeBody(key="more", message=str(error))]
            )
        found = control.find_mistakes(tree)
        return CheckedBody(
            config=tree,
            mistakes=[MistakeBody(key=key, message=line) for key, line in found.items()],
        )

    @router.post("/api/v1/configs/plan")
    async def plan_config(draft: ConfigDraftBody, request: Request) -> dict[str, Any]:
        """Estimate rows, labels, dollars, tokens and device minutes of a run; contact no
        provider.
        """
        return await control.plan(
            merge_trees(read_more(draft.more), draft.config), request.is_disconnected
        )

    @router.put(UPLOADS + "{file}", status_code=201, openapi_extra={"requestBody": BINARY})
    async def upload_file(
        request: Request, file: Annotated[str, Path(max_length=200)]
    ) -> UploadBody:
        """Store a CSV, JSONL or Parquet file in the service's storage; the body is the file
        itself.
        """
        limit = service.limits.upload_bytes
        location, columns = await receive_upload(request.stream(), file, service.storage, limit)
        return UploadBody(location=location, columns=columns)

    return router


def read_more(text: str) -> Tree:
    """Return the keys in YAML that may be empty; raises UserError."""
    tree = parse_yaml(text, "the further settings")
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(
            f"the further settings hold one {type(tree).__name__}, expected keys and values"
        )
    return tree
