"""Languages and scripts of texts."""

import unicodedata
from collections import Counter
from functools import cache


@cache
def name_language(text: str) -> str:
    """Return the language of a text as ISO 639-1, by its character n-grams; `unknown` if it has no
    letters. Short texts are often taken for a related language.
    """
    from langdetect import DetectorFactory, LangDetectException, detect

    DetectorFactory.seed = 0
    try:
        return str(detect(text))
    except LangDetectException:
        return "unknown"


def name_script(text: str) -> str:
    """Return the script of most letters of a text, as Unicode names it (`LATIN`, `CYRILLIC`,
    `CJK`); empty if it has no letters.
    """
    if text.isascii():
        return "LATIN" if any(character.isalpha() for character in text) else ""
    scripts = Counter(
        unicodedata.name(character, "").partition(" ")[0]
        for character in text
        if character.isalpha()
    )
    return scripts.most_common(1)[0][0] if scripts else ""
