"""/api/v1/configs and /api/v1/uploads: check and plan a configuration before it is started, and
upload files for it.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from atgen_ray.config import ServiceConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.core.schema import merge_trees
from atgen_ray.core.strict_yaml import dump_yaml, parse_yaml
from atgen_ray.serving.previews import Previews
from atgen_ray.serving.runs import RunManager
from atgen_ray.serving.schemas.body import Body, Tree
from atgen_ray.serving.security.concurrency import ConcurrencyLimit
from atgen_ray.serving.security.roles import allow
from atgen_ray.serving.uploads import BINARY, UPLOADS, UploadQuota, receive_upload
from atgen_ray.store.journal import Journal


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


class YamlBody(BaseModel):
    """A configuration file."""

    name: str = Field(description="Name of the file")
    text: str = Field(description="Its YAML, which `atgen-ray run` takes")


class ColumnBody(BaseModel):
    """A column of the data."""

    name: str = Field(description="Dots reach into nested columns")
    kind: str = Field(description="text, number, chat, list, object or empty")
    filled: float = Field(description="Share of the first rows that have a value")
    chars: float = Field(description="Mean length of a value as text")
    sample: str


class PromptBody(BaseModel):
    """A prompt as the model gets it, without the marks of its chat template."""

    system: str | None
    text: str | None
    answer: str | None = Field(description="The first known answer")
    error: str | None = Field(description="Why the row gives no prompt")
    tokens: int


class PreviewBody(BaseModel):
    """The first rows of the data, and the prompts made of them."""

    columns: list[ColumnBody]
    input: str | None = Field(description="The column that looks like the input")
    answer: str | None = Field(description="The column that looks like the answer")
    rows: list[dict[str, str]]
    unreadable: list[str] = Field(description="Rows that cannot be read, and why")
    prompts: list[PromptBody]
    counted: bool = Field(description="Tokens are the tokenizer's, rather than an estimate")


class UploadBody(BaseModel):
    """Location of an upload, for `data.pool`, `data.test` or `data.target`."""

    location: str
    columns: list[str] = Field(description="Of the first row; dots reach into nested ones")


def config_routes(service: ServiceConfig, control: RunManager, journal: Journal) -> APIRouter:
    """Return the routes of configurations and uploads, for admins and the scope `runs`."""
    router = APIRouter(tags=["configs"], dependencies=[allow("admin", scope="runs")])
    previews = Previews(service)
    quota = UploadQuota(journal, service.storage, service.limits)
    # These belong to the event loop, in which all of their routes begin.
    uploading = ConcurrencyLimit("uploads", service.limits.uploads)
    planning = ConcurrencyLimit("plans and previews", service.limits.plans)

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

    @router.post("/api/v1/configs/preview")
    async def preview_config(draft: ConfigDraftBody) -> PreviewBody:
        """Return the first rows of data.pool with the columns that look like input and answer, and
        the first prompts; `config` need not be complete.
        """

        def show() -> dict[str, Any]:
            return previews.show(merge_trees(read_more(draft.more), draft.config))

        with planning.take():
            return PreviewBody(**await run_in_threadpool(show))

    @router.post("/api/v1/configs/yaml")
    def write_config(draft: ConfigDraftBody) -> YamlBody:
        """Return a configuration as the file that `atgen-ray run` takes."""
        tree = merge_trees(read_more(draft.more), draft.config)
        name = tree.get("name")
        stem = name if isinstance(name, str) and NAME_PATTERN.fullmatch(name) else "run"
        return YamlBody(name=f"{stem}.yaml", text=dump_yaml(tree))

    @router.post("/api/v1/configs/plan")
    async def plan_config(draft: ConfigDraftBody, request: Request) -> dict[str, Any]:
        """Estimate rows, labels, dollars, tokens and device minutes of a run; contact no
        provider.
        """
        with planning.take():
            tree = merge_trees(read_more(draft.more), draft.config)
            return await control.plan(tree, request.is_disconnected)

    @router.put(UPLOADS + "{file}", status_code=201, openapi_extra={"requestBody": BINARY})
    async def upload_file(
        request: Request, file: Annotated[str, Path(max_length=200)]
    ) -> UploadBody:
        """Store a CSV, JSONL or Parquet file in the service's storage; the body is the file
        itself.
        """
        limit = service.limits.upload_bytes
        by = request.state.caller.name
        with uploading.take():
            location, columns = await receive_upload(
                request.stream(), file, service.storage, limit, quota, by
            )
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
