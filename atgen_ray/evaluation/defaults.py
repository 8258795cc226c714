"""Which metrics are computed where none are asked for."""

from collections.abc import Iterable, Sequence

from atgen_ray.evaluation.segmentation import mostly_unspaced

SPACED = ("rouge1", "rouge2", "rougeL", "exact_match", "token_f1")
# Without spaces a word of ROUGE and F1 is a single character; chrF, which reads runs of characters, says more.
UNSPACED = ("chrf", "rougeL", "exact_match", "token_f1")


def choose_metrics(asked: Sequence[str] | None, steering: Iterable[str], references: Iterable[str]) -> list[str]:
    """`asked`, or else the defaults for the script of `references` with those that steer stopping."""
    if asked is not None:
        return list(asked)
    return list(dict.fromkeys([*(UNSPACED if mostly_unspaced(references) else SPACED), *sorted(steering)]))
