"""Encoder replica: sentence-transformers, which applies each model's own pooling."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atgen_ray.config import EmbeddingConfig
from atgen_ray.core.checkpoints import fetch_safetensors, loading
from atgen_ray.ray_runtime.hardware import count_threads

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PART_ROWS = 256  # texts that are embedded between two calls of `check`


class Encoder:
    """Embeds batches of text as L2-normalised vectors (Reimers and Gurevych 2019, arXiv
    1908.10084).
    """

    def __init__(self, config: EmbeddingConfig, threads: int | None = None) -> None:
        """`threads` are those of torch; by default the share of one of `config.workers` in the
        cores of this node.
        """
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(count_threads(config.workers, threads))
        self._batch_size = config.batch_size
        with loading("embedding.model", config.model):
            self._model = SentenceTransformer(
                fetch_safetensors(config.model, "embedding.model"),
                device="cuda" if torch.cuda.is_available() else "cpu",
                model_kwargs={"dtype": getattr(torch, config.dtype), "use_safetensors": True},
                trust_remote_code=False,
            )
        self._model.max_seq_length = config.max_tokens

    def __call__(self, batch: pa.Table) -> pa.Table:
        import numpy as np

        vectors = self._model.encode(
            batch["text"].to_pylist(),
            batch_size=self._batch_size,
            convert_to_tensor=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        array = vectors.float().cpu().numpy()
        rows = [row if np.isfinite(row).all() else None for row in array]
        return pa.table(
            {"content": batch["content"], "embedding": pa.array(rows, pa.list_(pa.float32()))}
        )


def embed_texts(
    encoder: Callable[[pa.Table], pa.Table],
    texts: Sequence[str],
    check: Callable[[], Any] = lambda: None,
) -> "npt.NDArray[np.float32]":
    """Return vectors of `texts` in their order, (n, d); a row is NaN if its vector is not finite.

    `check` is called before each part of `PART_ROWS` texts, and may raise to end the work.
    """
    import numpy as np

    parts: list[npt.NDArray[np.float32]] = []
    for start in range(0, len(texts), PART_ROWS):
        check()
        part = [*texts[start : start + PART_ROWS]]
        rows = encoder(pa.table({"content": part, "text": part}))["embedding"].to_pylist()
        width = next((len(row) for row in rows if row is not None), 0)
        missing = [float("nan")] * width
        parts.append(np.array([missing if row is None else row for row in rows], np.float32))
    # A part without any vector has no width of its own.
    width = max((part.shape[1] for part in parts), default=0)
    fitting = [
        part if part.shape[1] == width else np.full((len(part), width), np.nan, np.float32)
        for part in parts
    ]
    return np.concatenate([np.empty((0, width), np.float32), *fitting])
