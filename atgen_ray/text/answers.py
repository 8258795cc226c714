"""Normalisation of the answer in an output, so that different wordings of it count as one."""

import re
import unicodedata
from typing import Literal

AnswerForm = Literal["text", "last_line", "last_number"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?")


def normalize_answer(text: str, form: AnswerForm) -> str:
    """Return the answer in `text` without case, punctuation, English articles and extra spaces.

    last_line takes the last line that is not blank. last_number takes the last number, without
    thousands separators and trailing zeros, or the whole text if it holds none.
    """
    text = unicodedata.normalize("NFKC", text)
    if form == "last_number" and (numbers := _NUMBER.findall(text)):
        return _plain_number(numbers[-1])
    if form == "last_line":
        text = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    kept = "".join(
        " " if unicodedata.category(character)[0] in "PSC" else character
        for character in text.casefold()
    )
    return " ".join(_ARTICLES.sub(" ", kept).split())


def _plain_number(text: str) -> str:
    """Return a number without separators, plus sign, and leading or trailing zeros; -0 is 0."""
    number = text.replace(",", "").replace("−", "-").lstrip("+")
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    sign = "-" if number.startswith("-") else ""
    whole, dot, fraction = number.removeprefix("-").partition(".")
    digits = (whole.lstrip("0") or "0") + dot + fraction
    return sign + digits if digits != "0" else "0"
