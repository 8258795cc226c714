"""Reading of datasets: any source becomes examples with ids, prompts and marked near-duplicates."""

from atgen_ray.data.split import Split, SplitReader, build_split, open_split, overlap

__all__ = ["Split", "SplitReader", "build_split", "open_split", "overlap"]
