"""The space in which a run measures similarity: which model gives its vectors, and how."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa

from atgen_ray.config import EmbeddingConfig, ModelConfig, PromptConfig, RunConfig, ServiceConfig
from atgen_ray.core.errors import UserError
from atgen_ray.text.conversation import Choice, choose_texts

TextEncoder = Callable[[pa.Table], pa.Table]  # content, text to content, embedding


@dataclass(frozen=True)
class EmbeddingSpace:
    """Everything that decides the vector of a text."""

    embedding: EmbeddingConfig
    model: ModelConfig | None = None  # the target model, where the vectors are its states
    prompt: PromptConfig | None = None
    turns: Choice = "last"  # what of a conversation, where it is not read as in a run

    @classmethod
    def of(cls, config: RunConfig | ServiceConfig) -> Self:
        """Return the space of a run or of a service."""
        turns = config.selection.turns if isinstance(config, RunConfig) else "last"
        return cls(config.embedding, config.model, config.prompt, turns)

    @property
    def identity(self) -> dict[str, Any]:
        """Return what decides a vector besides the text, as plain data: texts of equal identity
        have equal vectors. Whitening is none of it, as it depends on the pool.
        """
        embedding = self.embedding
        # The default is left out: caches of before have no such thing.
        chosen = {} if self.turns == "last" or self._reads_whole else {"turns": self.turns}
        if embedding.source == "encoder":
            included = {"model", "max_tokens", "dtype"}
            return embedding.model_dump(mode="json", include=included) | chosen
        model, prompt = self._target()
        unread = {"host", "trust_remote_code", "max_new_tokens", "adapter"}
        states = embedding.model_dump(mode="json", include={"layer", "position", "render"})
        rendered = prompt.model_dump(mode="json") if embedding.render == "prompt" else None
        return (
            {"states": states, "model": model.model_dump(mode="json", exclude=unread)}
            | {"prompt": rendered}
            | chosen
        )

    def choose_texts(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return what of each text is embedded: all, but of a conversation what `turns` says."""
        return texts if self._reads_whole else choose_texts(texts, self.turns)

    @property
    def _reads_whole(self) -> bool:
        """Return whether the vectors are states of the whole prompt."""
        return self.embedding.source == "model" and self.embedding.render == "prompt"

    @property
    def worker(self) -> tuple[Callable[..., TextEncoder], tuple[Any, ...]]:
        """Return the class of the replicas that embed, and the arguments of each.

        Raises:
            UserError: the vectors are a model's states, and there is no model.
        """
        if self.embedding.source == "encoder":
            from atgen_ray.embedding.encoder import Encoder

            return Encoder, (self.embedding,)
        from atgen_ray.embedding.model_states import StateEncoder

        return StateEncoder, (self.embedding, *self._target())

    def build_encoder(self, threads: int) -> TextEncoder:
        """Return a replica in this process, with so many threads of torch."""
        worker, arguments = self.worker
        return worker(*arguments, threads)

    def _target(self) -> tuple[ModelConfig, PromptConfig]:
        if self.model is None:
            raise UserError(
                "embedding.source is 'model', expected `model` beside it, or "
                "embedding.source=encoder"
            )
        return self.model, self.prompt or PromptConfig()
