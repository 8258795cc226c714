"""The pool: any dataset as examples with ids, the prompts made of them, near-duplicates found."""

from atgen_ray.data.split import Split, build_split, overlap

__all__ = ["Split", "build_split", "overlap"]
