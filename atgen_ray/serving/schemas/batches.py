"""Requests and responses of /v1/batches."""

from typing import Any, Literal

from pydantic import BaseModel

from atgen_ray.serving.schemas.body import Body
from atgen_ray.serving.schemas.files import ExpiresAfter
from atgen_ray.serving.schemas.fine_tuning import Metadata
from atgen_ray.serving.schemas.select import Word

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]


class BatchBody(Body):
    """Body of POST /v1/batches."""

    input_file_id: Word
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class CountsBody(BaseModel):
    """How many questions a batch has, and how they went."""

    total: int
    completed: int
    failed: int


class BatchViewBody(BaseModel):
    """A batch."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: dict[str, Any] | None
    input_file_id: str
    completion_window: str
    status: Literal["in_progress", "cancelling", "completed", "cancelled", "failed"]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int
    expires_at: None = None
    completed_at: int | None
    cancelled_at: int | None
    failed_at: int | None
    request_counts: CountsBody
    metadata: dict[str, str] | None
