"""Abstractiveness and repetition, from n-grams of words."""

from atgen_ray.evaluation.lengths import list_words


def novel_ngrams(order: int, prediction: str, source: str) -> float:
    """Share of the prediction's n-grams that the source does not have (See et al., ACL 2017); 0 without n-grams."""
    known, grams = set(_ngrams(source, order)), _ngrams(prediction, order)
    return sum(gram not in known for gram in grams) / len(grams) if grams else 0.0


def repetition(prediction: str, order: int = 3) -> float:
    """Share of the prediction's trigrams that stood there before (Welleck et al., ICLR 2020); 0 without trigrams."""
    grams = _ngrams(prediction, order)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _ngrams(text: str, order: int) -> list[tuple[str, ...]]:
    words = list_words(text)
    return [tuple(words[at : at + order]) for at in range(len(words) - order + 1)]
