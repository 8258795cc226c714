"""Sentence embeddings of the pool, computed once for each text."""

from atgen_ray.embedding.pool import embed_pool, load_embeddings

__all__ = ["embed_pool", "load_embeddings"]
