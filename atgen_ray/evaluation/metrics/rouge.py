"""ROUGE by the rouge-score package, for text in any script."""

import math
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from atgen_ray.text.words import fold_characters, split_words


def rouge(kind: str, prediction: str, references: Sequence[str]) -> float:
    """Return the F-measure of ROUGE (Lin, 2004), the largest over the references; NaN without
    references.

    `kind` is rouge1, rouge2, rougeL or rougeLsum. rougeLsum joins the matches of all lines, so a
    summary to be compared by sentence has one sentence a line. Words are Porter-stemmed. On ASCII
    text the result is that of the package's own tokenizer. That tokenizer drops all other
    characters, and so gives most languages 0; here words of every script count.
    """
    scorer = _scorer(kind)
    values = (float(scorer.score(reference, prediction)[kind].fmeasure) for reference in references)
    return max(values, default=math.nan)


class _Words:
    """Tokenizer for the package."""

    def tokenize(self, text: str) -> list[str]:
        return _tokenize(text)


@lru_cache
def _scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], tokenizer=_Words())


@lru_cache
def _ascii_tokenizer() -> Any:
    from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(use_stemmer=True)


@lru_cache(maxsize=4096)  # every kind of ROUGE tokenizes the same texts
def _tokenize(text: str) -> list[str]:
    text = unicodedata.normalize("NFKC", text)
    if text.isascii():
        return list(_ascii_tokenizer().tokenize(text))
    words = split_words("".join(_keep(character) for character in fold_characters(text).lower()))
    return [
        token
        for word in words
        for token in (_ascii_tokenizer().tokenize(word) if word.isascii() else [word])
    ]


def _keep(character: str) -> str:
    """Return letters, their combining marks and digits as they are, nothing for invisible joiners,
    and a space for any other character.
    """
    category = unicodedata.category(character)
    if category[0] in "LMN":
        return character
    return "" if category == "Cf" else " "
