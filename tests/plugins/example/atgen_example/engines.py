"""The engine `echo`: it answers with the first word of the input, and needs no model."""

from typing import Any

import pyarrow as pa

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.records import GenerationRequest
from atgen_ray.core.stored import Stored
from atgen_ray.engines.base import OUTPUT_SCHEMA, Engine


class EchoEngine(Engine):
    """Runs in the tasks of Ray Data, on any number of nodes."""

    name = "echo"

    def __init__(self, model: ModelConfig, prompt: PromptConfig, engine: EngineConfig) -> None:
        self._batch_size = engine.batch_size

    def generate(self, rows: Any, request: GenerationRequest, adapter: Stored | None) -> Any:
        return rows.map_batches(answer, batch_size=self._batch_size, batch_format="pyarrow")


def answer(batch: pa.Table) -> pa.Table:
    """A row of output for each row of input."""
    rows = [
        {
            "id": row["id"],
            "sample": row["sample"],
            "prompt_tokens": len(row["text"].split()),
            "text": row["text"].split()[0],
            "token_ids": [1],
            "logprobs": [-float(len(row["text"]))],
            "entropies": [0.5],
            "top_logprobs": [[-0.1, -2.0]],
            "finish_reason": "stop",
        }
        for row in batch.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=OUTPUT_SCHEMA)
