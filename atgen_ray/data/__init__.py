"""Reading of datasets: any source becomes examples with ids, prompts and marked near-duplicates."""

from atgen_ray.data.split import Split, build_split, overlap

__all__ = ["Split", "build_split", "overlap"]
