"""Words of texts in any script."""

import re
import unicodedata
from collections.abc import Iterable

# Scripts written without spaces between words: each of their characters counts as a word.
_UNSPACED = re.compile(
    "(["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Myanmar, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # iteration marks, kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "])"
)
_KANA = re.compile("[\u3040-\u30ff\u31f0-\u31ff]")
# Tatweel, which only stretches an Arabic word, and the vowel signs, which most texts leave out.
_ARABIC_SIGNS = re.compile("[\u0640\u064b-\u065f\u0670]")


def split_words(text: str) -> list[str]:
    """Return the words of `text`, split at white space; in scripts without spaces every character
    is a word.
    """
    return _UNSPACED.sub(r" \1 ", text).split()


def fold_characters(text: str) -> str:
    """Return `text` with decimal digits of every script as 0 to 9, and Arabic without vowel signs
    and tatweel.
    """
    if text.isascii():
        return text
    text = _ARABIC_SIGNS.sub("", text)
    return "".join(
        str(unicodedata.decimal(character))
        if unicodedata.category(character) == "Nd"
        else character
        for character in text
    )


def is_unspaced(text: str) -> bool:
    """Return whether most letters of `text` belong to scripts without spaces between words."""
    letters = sum(character.isalpha() for character in text)
    return 2 * len([found for found in _UNSPACED.findall(text) if found.isalpha()]) > letters


def has_kana(text: str) -> bool:
    """Return whether `text` holds Japanese syllables (kana)."""
    return _KANA.search(text) is not None


def mostly_unspaced(texts: Iterable[str]) -> bool:
    """Return whether more than half of `texts` are written without spaces between words."""
    found = [is_unspaced(text) for text in texts]
    return 2 * sum(found) > len(found)
