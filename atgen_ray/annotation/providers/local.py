"""Provider that runs a language model on our own workers, through the engines of the target
model.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from atgen_ray.annotation.providers.base import (
    BatchLimits,
    BatchStatus,
    ParsedResponse,
    RawResponse,
    Shard,
    SubmittedShard,
)
from atgen_ray.annotation.providers.reasoning import split_reasoning
from atgen_ray.annotation.request import PROBE, AnnotationRequest
from atgen_ray.config import ModelAnnotatorConfig, PromptConfig, Shot
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.records import GenerationRequest, Progress
from atgen_ray.engines.base import Engine
from atgen_ray.engines.generation import generate_features
from atgen_ray.engines.registry import build_engine
from atgen_ray.store.run_folder import RunFolder

Row = dict[str, Any]


class LocalModel:
    """Answers all requests in one shard at its creation. A repeated request costs nothing, so no
    outcome is ambiguous.
    """

    name = "model"
    remembers = True

    def __init__(
        self,
        config: ModelAnnotatorConfig,
        folder: RunFolder,
        parts: str,
        seed: int,
        progress: Progress,
    ) -> None:
        """`parts` is a folder within `folder` that keeps rows generated before a kill; `progress`
        raises RunStopped to stop.
        """
        self._config = config
        self._folder = folder
        self._parts = parts
        self._seed = seed
        self._progress = progress
        self.limits = BatchLimits(1_000_000, 1 << 40, 1)
        self._engine: Engine | None = None
        self._told = PromptConfig()  # what the engine puts before each prompt

    def measure(self, request: AnnotationRequest) -> int:
        return 0

    def create(self, shard: Shard) -> SubmittedShard:
        # Votes on one question are samples of one prompt.
        groups: dict[str, list[tuple[int, str, AnnotationRequest]]] = {}
        for attempt in shard.attempts:
            id_, vote, repair = attempt.request.key
            key = f"{id_}-probe" if vote == PROBE else f"{id_}-{repair}"
            groups.setdefault(key, []).append(
                (attempt.request.vote, attempt.custom_id, attempt.request)
            )
        requests = {key: members[0][2] for key, members in groups.items()}
        outputs = self._generate(requests, shard.hash)
        replies = [
            self._reply(outputs[key], max(0, vote), custom_id)
            for key, members in groups.items()
            for vote, custom_id, _ in members
        ]
        return SubmittedShard(shard.hash, tuple(replies))

    def check(self, remote: str) -> BatchStatus:
        return BatchStatus("done", True)

    def collect(self, shard: Shard, remote: str) -> Sequence[RawResponse]:
        raise NotImplementedError("answers come with their submission")

    def find(self, shard: Shard, known: set[str]) -> SubmittedShard | None:
        # Rows generated before a kill are in the parts folder, and are not generated again.
        return None

    def forget(self, remote: str, rehearse: bool = False) -> Sequence[str]:
        return []

    def cancel(self, remote: str) -> None:
        """Do nothing: generation runs within `create` alone."""

    def close(self) -> None:
        """End the engine; the next request starts another."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def read(self, body: dict[str, Any]) -> ParsedResponse:
        thought = split_reasoning(str(body["text"]))
        cut = thought.cut or body["finish_reason"] == "length"
        tokens = int(body["prompt_tokens"] or 0), int(body["output_tokens"] or 0)
        return ParsedResponse(
            thought.answer, thought.reasoning, "length" if cut else "stop", *tokens
        )

    def _generate(self, requests: dict[str, AnnotationRequest], name: str) -> dict[str, Row]:
        """Return the output row of each request, by its key."""
        config = self._config
        prompt = next(iter(requests.values())).prompt
        # All prompts of a round have the same system turn and worked examples.
        shots = [
            Shot(input=question[1], output=answer[1])
            for question, answer in zip(prompt.turns[:-1:2], prompt.turns[1:-1:2], strict=True)
        ]
        engine = self._open_engine(PromptConfig(system=prompt.system, few_shot=shots))
        examples = pa.table(
            {
                "id": list(requests),
                "text": [request.prompt.turns[-1][1] for request in requests.values()],
            }
        )
        drawn = config.votes if config.temperature != 0 else 0
        request = GenerationRequest(
            config.max_output_tokens,
            samples=drawn,
            temperature=config.temperature or 1.0,
            top_p=1.0,
            seed=mix_seed(self._seed, "annotation", name),
        )
        parts = f"{self._parts}/{name}"
        features = generate_features(
            engine,
            examples,
            request,
            None,
            self._folder,
            parts,
            config.engine.batch_size,
            self._progress,
        )
        self._folder.remove(parts)
        return {row["id"]: row for row in features.to_pylist()}

    def _open_engine(self, told: PromptConfig) -> Engine:
        """Return an engine that puts `told` before each prompt; it stays until `close`."""
        if self._engine is None or told != self._told:
            self.close()
            self._engine = build_engine(self._config.model, told, self._config.engine)
            self._told = told
        return self._engine

    def _reply(self, row: Row, vote: int, custom_id: str) -> RawResponse:
        if row["error"] is not None:
            return RawResponse(custom_id, code="refused", message=row["error"])
        body = {"prompt_tokens": row["prompt_tokens"], "finish_reason": row["finish_reason"]}
        if self._config.temperature == 0:
            return RawResponse(
                custom_id, body | {"text": row["text"], "output_tokens": len(row["token_ids"])}
            )
        if vote >= len(row["samples"]):
            return RawResponse(custom_id, code="refused", message="the engine drew no such sample")
        text = row["samples"][vote]["text"]
        return RawResponse(
            custom_id, body | {"text": text, "output_tokens": None, "finish_reason": "stop"}
        )
