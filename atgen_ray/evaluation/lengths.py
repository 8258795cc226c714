"""How long answers are, in words; none of it is better the larger it is."""

import math
import re
from collections.abc import Sequence

from atgen_ray.evaluation.segmentation import split_words


def list_words(text: str) -> list[str]:
    """Lower-case words of any script, without punctuation."""
    return split_words(" ".join(re.findall(r"\w+", text.lower())))


def count_words(text: str) -> float:
    """Words of `text`."""
    return float(len(list_words(text)))


def length_ratio(prediction: str, references: Sequence[str]) -> float:
    """Words of the prediction for each word of the reference that is nearest in length."""
    if not references:
        return math.nan
    length = count_words(prediction)
    nearest = min((count_words(reference) for reference in references), key=lambda other: (abs(length - other), other))
    return length / max(1.0, nearest)


def source_length_ratio(prediction: str, source: str) -> float:
    """Words of the prediction for each word of the source: how far it is compressed."""
    return count_words(prediction) / max(1.0, count_words(source))
