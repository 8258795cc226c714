"""Embeddings of the pool and of the target, computed once for each text."""

from atgen_ray.embedding.pool import embed_pool, load_embeddings, load_whitening
from atgen_ray.embedding.space import EmbeddingSpace
from atgen_ray.embedding.whitening import fit_whitening

__all__ = ["EmbeddingSpace", "embed_pool", "fit_whitening", "load_embeddings", "load_whitening"]
