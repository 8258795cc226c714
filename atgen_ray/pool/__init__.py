"""The pool: any dataset as examples with ids, the prompts made of them, near-duplicates found."""

from atgen_ray.pool.reading import Split, build_split, overlap

__all__ = ["Split", "build_split", "overlap"]
