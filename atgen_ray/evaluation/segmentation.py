"""Words of any script."""

import re

# Scripts written without spaces between words: each of their characters counts as a word.
_UNSPACED = re.compile(
    "(["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Myanmar, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # iteration marks, kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "])"
)


def split_words(text: str) -> list[str]:
    """Words of `text` by white space, and one by one the characters of scripts that have no spaces."""
    return _UNSPACED.sub(r" \1 ", text).split()
