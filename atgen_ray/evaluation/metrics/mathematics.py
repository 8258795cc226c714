"""Equality of mathematical answers: 0.5 equals 1/2 and \\frac{1}{2}, and 1.5 does not equal 15.

Plain numbers are compared exactly; only the decimals of a fraction that never end may be rounded.
Everything else goes to math-verify in a process of its own: it parses hostile text with computer
algebra and needs alarms to give up, which only a main thread may set.
"""

import json
import math
import re
import subprocess  # nosec B404 - our own program, its input as JSON lines
import sys
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from atgen_ray.evaluation.metric import Case
from atgen_ray.text.words import fold_characters

_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?<=\d)"
_PLAIN = re.compile(rf"({_NUMBER}(?:[eE][-+]?\d{{1,2}})?)\.?")
_RATIO = re.compile(rf"({_NUMBER})\s*/\s*({_NUMBER})")
_MIXED = re.compile(r"([-+]?\d+)\s+(\d+)\s*/\s*(\d+)")
_FRAC = re.compile(r"([-+]?)(\d*)\s*\\[dt]?frac\{\s*([-+]?[\d.,]+)\s*\}\{\s*([-+]?[\d.,]+)\s*\}")
_SPACED = re.compile(r"[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?")  # 1 000 000
_VULGAR = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞↉])")
_UNITS = re.compile(r"(?<=[\d}])(?:\s*\\text\{[^{}]*\}|(?:\s+[^\W\d_]{2,})+)\s*\.?$")
_CLUTTER = re.compile(r"\\[,!;: ]|\\left|\\right|\\\$|\\%|[$€£¥%°]|\*\*|\^\\circ|\^\{\\circ\}")
_SIGNAL = re.compile(r"(?:answer|result)\s*(?:is|=|:)+\s*(.+)", re.IGNORECASE)
_LAST = re.compile(rf"(?<![\w.,])[$€£]?([-+]?\d+\s+\d+/\d+|{_NUMBER}(?:\s*/\s*\d+)?)")
_BRACKETED = re.compile(
    r"(?:\\?\{|[(\[])[^()\[\]{}\n]*,[^()\[\]{}\n]*[)\]}]$"
)  # an interval, a point or a set
_WORDS = re.compile(r"(?<!\\)\b[^\W\d_]{2,}")
_TOLERANCE = Fraction(1, 10**6)  # relative; decimals of a fraction are rarely written out further
_NOISE = Fraction(1, 10**15)  # relative; the last digits of a float
_SECONDS = 20.0  # for one pair
_LONGEST = 200  # characters of a plain number


def math_equal(cases: Sequence[Case]) -> list[float]:
    """Return 1 for each prediction whose final answer equals that of a reference, else 0; NaN
    without references.

    The final answer is the last \\boxed{}, or what follows #### or "the answer is", or the whole of
    a short text, or the last number, interval or point of a long one. Answers that cannot be shown
    to be equal in time are not equal.
    """
    pairs: dict[tuple[str, str], bool] = {}
    # Pairs that need algebra are collected, since starting math-verify takes seconds.
    open_pairs = []
    for case in cases:
        given = find_final(case.prediction)
        for right in map(find_final, case.references):
            known = compare_plainly(right, given)
            if known is None:
                open_pairs.append((right, given))
            else:
                pairs[right, given] = known
    open_pairs = list(dict.fromkeys(open_pairs))
    pairs |= dict(zip(open_pairs, compare_symbolically(open_pairs), strict=True))
    return [
        max(
            (
                float(pairs[find_final(reference), find_final(case.prediction)])
                for reference in case.references
            ),
            default=math.nan,
        )
        for case in cases
    ]


def find_final(text: str) -> str:
    """Return the final answer in a solution."""
    # From the clearest mark to the weakest: a box, ####, a phrase, a short text, the last number.
    text = fold_characters(text).strip()
    if (boxed := _find_boxed(text)) is not None:
        return boxed
    if "####" in text:
        after = text.rpartition("####")[2].strip()
        return after.splitlines()[0].strip() if after else ""
    if found := _SIGNAL.findall(text):
        text = re.sub(r"(?<=[\w})\]])\.\s.*", "", found[-1]).strip()
    text = text.removesuffix(".").strip()
    if parse_number(text) is not None or ("\n" not in text and len(text.split()) <= 3):
        return text
    bare = text.strip("$").strip()
    if "\n" not in bare and bare.endswith((")", "]", "}")) and not _WORDS.search(bare):
        return text
    if (bracketed := _BRACKETED.search(bare)) and not _WORDS.search(bracketed[0]):
        return bracketed[0]
    numbers = _LAST.findall(text)
    return numbers[-1] if numbers else text


def compare_plainly(right: str, given: str) -> bool | None:
    """Return whether two answers are the same; None if only algebra can tell."""
    if _tidy(right) == _tidy(given):
        return True
    if not given.strip() or not right.strip():
        return False
    one = parse_number(right)
    other = parse_number(given)
    if one is not None and other is not None:
        return _is_same(one, other)
    return None


def parse_number(text: str) -> Fraction | None:
    """Return the number that `text` is, without currency, per cent signs, thousands separators and
    units; None if it is no number.
    """
    if len(text) > _LONGEST:  # keeps the patterns and the fractions of hostile text cheap
        return None
    text = (
        unicodedata.normalize("NFKC", _VULGAR.sub(" ", text))
        .replace("−", "-")
        .replace("\u2044", "/")
    )
    text = _UNITS.sub("", _CLUTTER.sub("", text).strip()).strip()
    text = re.sub(r"^[a-zA-Z]\s*=\s*", "", text)
    if found := _PLAIN.fullmatch(text):
        return Fraction(found[1].replace(",", ""))
    if _SPACED.fullmatch(text):
        return Fraction(text.replace(" ", ""))
    sign = 1
    if (found := _FRAC.fullmatch(text)) and found[2]:
        text = f"{found[1]}{found[2]} {found[3]}/{found[4]}"
    elif found:
        sign = -1 if found[1] == "-" else 1
        text = f"{found[3]}/{found[4]}"
    if found := _MIXED.fullmatch(text):
        if int(found[3]) == 0:
            return None
        whole = int(found[1])
        part = Fraction(int(found[2]), int(found[3]))
        return whole - part if found[1].startswith("-") else whole + part
    if (found := _RATIO.fullmatch(text)) and (below := Fraction(found[2].replace(",", ""))):
        return sign * Fraction(found[1].replace(",", "")) / below
    return None


def compare_symbolically(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Return whether math-verify finds each (right, given) equal; False for pairs that it does not
    decide in time.
    """
    if not pairs:
        return []
    command = [sys.executable, "-I", str(Path(__file__).with_name("math_worker.py"))]
    lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
    try:
        deadline = 30 + _SECONDS * len(pairs)
        done = subprocess.run(  # noqa: S603  # nosec B603
            command, input=lines, capture_output=True, text=True, timeout=deadline
        )
        output = done.stdout
        failed = done.returncode
    except subprocess.TimeoutExpired as late:  # the verdicts that it has written so far count
        output = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        failed = 0
    verdicts = [json.loads(line) for line in output.split("\n")[:-1]]
    if failed and not verdicts:
        raise RuntimeError(f"math-verify cannot be run: {done.stderr.strip().splitlines()[-1:]}")
    return verdicts + [False] * (len(pairs) - len(verdicts))


def _is_same(one: Fraction, other: Fraction) -> bool:
    """Return whether two numbers are equal, or one is a fraction whose decimals never end and the
    other its rounded decimals.
    """
    if one == other:
        return True
    digits = [_count_digits(number) for number in (one, other)]
    difference = abs(one - other)
    largest = max(abs(one), abs(other))
    if digits.count(None) == 1:
        written = max(digit or 0 for digit in digits)
        unit = Fraction(1, 10**written)
        return written > 0 and difference <= min(unit, _TOLERANCE * largest)
    return digits != [0, 0] and difference <= _NOISE * largest


def _count_digits(number: Fraction) -> int | None:
    """Return the number of digits after the point; None where they never end."""
    rest = number.denominator
    counts = []
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest //= prime
            count += 1
        counts.append(count)
    return max(counts) if rest == 1 else None


def _find_boxed(text: str) -> str | None:
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    start = text.index("{", start) + 1
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at].strip()
    return text[start:].strip()


def _tidy(text: str) -> str:
    """Return the text without white space, except a space between digits: 3 1/2 is not 31/2."""
    text = _CLUTTER.sub("", text)
    return (
        re.sub(r"(?<=\d)\s+(?=\d)|(\s+)", lambda found: "" if found[1] else " ", text)
        .casefold()
        .removesuffix(".")
    )
