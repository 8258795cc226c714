"""Multiple choice: whether an answer chooses the right letter."""

import math
import re
from collections.abc import Sequence

from atgen_ray.evaluation.metrics.exact_match import exact_match

# In the order in which they are tried; within one pattern the last match counts.
_PATTERNS = (
    re.compile(r"^\W*([A-Za-z])\W*$"),  # B, (b), **B**.
    re.compile(
        r"(?i:answer|choice|option)\W+(?i:is\W+|would "
        r"be\W+|:\W*)?(?i:option\W+)?\(?([A-Z])\b(?!['’])"
    ),
    re.compile(r"^\W*([A-Z])(?:[).:]|\s*$|\s*\n)"),  # B) because ...
    re.compile(r"\(([A-Z])\)"),
)


def multiple_choice(prediction: str, references: Sequence[str]) -> float:
    """Return 1 when the prediction chooses the letter of a reference, else 0; NaN without
    references.

    "B", "(b)", "B. Paris" and "The answer is B." choose B. A prediction that chooses no letter is
    wrong; a reference without one is compared as text.
    """
    return max((_agree(prediction, reference) for reference in references), default=math.nan)


def _agree(prediction: str, reference: str) -> float:
    chosen = find_letter(prediction)
    right = find_letter(reference)
    if right is None:
        return exact_match(prediction, [reference])
    return float(chosen == right)


def find_letter(text: str) -> str | None:
    """Return the letter that `text` chooses, in upper case; None if it chooses none."""
    for pattern in _PATTERNS:
        if found := pattern.findall(text.strip()):
            return str(found[-1]).upper()
    return None
