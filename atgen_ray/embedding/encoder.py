"""Encoder replica: sentence-transformers, which applies each model's own pooling."""

import pyarrow as pa

from atgen_ray.config import EmbeddingConfig
from atgen_ray.core.checkpoints import loading, resolve_checkpoint


class Encoder:
    """Embeds batches of text as L2-normalised vectors (Reimers and Gurevych 2019, arXiv
    1908.10084).
    """

    def __init__(self, config: EmbeddingConfig, threads: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        self._batch_size = config.batch_size
        with loading("embedding.model", config.model):
            self._model = SentenceTransformer(
                resolve_checkpoint(config.model, "embedding.model"),
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
