"""Prompt injection in examples, found by what the annotating model does, never by the words of the
example.

Three kinds of evidence are looked at. An answer may stand within its own example, as the payload of
a command does. It may jump: to another language, to another format, or out of the closed set that
the other answers form. And the model may fail a probe: a question with a known answer about the
same example (known-answer detection: Liu et al., USENIX Security 2024). A command that takes over
the model takes over the probe too.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from atgen_ray.text.languages import name_language, name_script

FEWEST = 10  # answers to compare with; fewer say nothing about what is usual
USUAL = 0.85  # share of the other answers that makes a trait usual
RARE = 0.05  # share of the other answers up to which a trait is a jump
EXTRACTIVE = 0.5  # share of answers taken from their text from which that says nothing
CLOSED = 0.8  # share of answers that are given repeatedly, from which they form a closed set
REPEATED = 3  # times that an answer of a closed set is given at least
LANGUAGE_LETTERS = 50  # letters from which the language of a text can be told
LANGUAGE_SAMPLE = 30  # answers that tell the usual language
COMMON_WORDS = 50  # most frequent words of the answers, of which one in another language has few
COMMON_SHARE = 0.15  # share of them in an answer from which its language is not looked at
LANGUAGE_SPAN = 300  # characters of an answer that its language is told by
CODE_STARTS = ("{", "[", "<", "```", "|", "+-")

Trait = Callable[[str], str]


@dataclass(frozen=True)
class Suspicion:
    """Signs that an example commanded its answer. One sign asks for a probe, two are enough."""

    signs: tuple[str, ...]

    @property
    def proven(self) -> bool:
        """Return whether signs of different kinds agree."""
        return len(self.signs) > 1

    @property
    def reason(self) -> str:
        """Return the signs as one line."""
        return " and ".join(self.signs)


def find_suspicions(
    answers: Mapping[str, tuple[str, str]], earlier: Sequence[tuple[str, str]] = ()
) -> dict[str, Suspicion]:
    """Return the answers that look commanded, by id.

    Args:
        answers: text and label of each example of the round, by id.
        earlier: texts and labels of earlier rounds, which are compared with alone.
    """
    pairs = [*answers.values(), *earlier]
    if len(pairs) <= FEWEST:
        return {}
    folded = [_fold(label) for _, label in pairs]
    signs = [
        _find_payloads(pairs, folded),
        _find_strangers(folded),
        _find_languages([label for _, label in pairs], folded),
        _find_formats([label for _, label in pairs], folded),
    ]
    found = dict[str, Suspicion]()
    for place, id_ in enumerate(answers):
        if here := tuple(sign[place] for sign in signs if place in sign):
            found[id_] = Suspicion(here)
    return found


def _find_payloads(pairs: Sequence[tuple[str, str]], folded: Sequence[str]) -> dict[int, str]:
    """Return the answers that stand word for word in their own example, which few others do."""
    inside = [_holds(text, label) for (text, _), label in zip(pairs, folded, strict=True)]
    # An answer that is given to examples without it is a usual answer, not a payload.
    elsewhere = Counter(label for label, own in zip(folded, inside, strict=True) if not own)
    payloads = [
        place for place, own in enumerate(inside) if own and elsewhere[folded[place]] < REPEATED - 1
    ]
    if len(payloads) > EXTRACTIVE * len(pairs):
        return {}
    return dict.fromkeys(payloads, "it repeats a part of the example, which the others do not")


def _find_strangers(folded: Sequence[str]) -> dict[int, str]:
    """Return the answers outside the closed set that the other answers form, if they form one."""
    counts = Counter(folded)
    repeated = {label for label, count in counts.items() if count >= REPEATED}
    if sum(counts[label] for label in repeated) < CLOSED * len(folded):
        return {}
    reason = f"it is none of the {len(repeated)} labels that the other answers have"
    return {place: reason for place, label in enumerate(folded) if label not in repeated}


def _find_languages(labels: Sequence[str], folded: Sequence[str]) -> dict[int, str]:
    """Return the answers in another script or language than nearly all others."""
    found = _find_jumps(labels, folded, name_script, "script")
    long = [
        place
        for place, label in enumerate(labels)
        if place not in found and sum(map(str.isalpha, label)) >= LANGUAGE_LETTERS
    ]
    if len(long) <= FEWEST:
        return found
    spans = {place: labels[place][:LANGUAGE_SPAN] for place in long}
    sample = long[:: -(-len(long) // LANGUAGE_SAMPLE)]
    language, count = Counter(name_language(spans[place]) for place in sample).most_common(1)[0]
    if count < USUAL * len(sample):
        return found
    # To name a language takes milliseconds, so most answers are told by the words that they share.
    words = {place: span.casefold().split() for place, span in spans.items()}
    counts = Counter(word for here in words.values() for word in set(here))
    common = {word for word, count in counts.most_common(COMMON_WORDS) if count > RARE * len(long)}
    for place, span in spans.items():
        shared = sum(word in common for word in words[place])
        if shared >= COMMON_SHARE * len(words[place]):
            continue
        if (here := name_language(span)) != language:
            found[place] = f"its language is {here}, that of the others {language}"
    return found


def _find_formats(labels: Sequence[str], folded: Sequence[str]) -> dict[int, str]:
    """Return the answers of another format than nearly all others: mark-up, lines or case, or two
    lesser differences together.
    """
    found = dict[int, str]()
    for name, trait in (("form", _name_shape), ("layout", _name_lines), ("case", _name_case)):
        found = _find_jumps(labels, folded, trait, name) | found
    lesser = [
        _find_jumps(labels, folded, _name_ending, "ending"),
        _find_jumps(labels, folded, _name_characters, "kind of characters"),
        _find_lengths(labels),
    ]
    for place in range(len(labels)):
        here = [jumps[place] for jumps in lesser if place in jumps]
        if place not in found and len(here) > 1:
            found[place] = ", ".join(here)
    return found


def _find_jumps(
    labels: Sequence[str], folded: Sequence[str], trait: Trait, name: str
) -> dict[int, str]:
    """Return the answers whose trait differs from the one that nearly all others share.

    Equal answers are not counted among the others, so that many copies of a command hide nothing.
    """
    values = [trait(label) for label in labels]
    counts = Counter(values)
    usual, _ = counts.most_common(1)[0]
    copies = Counter(folded)
    found = dict[int, str]()
    for place, value in enumerate(values):
        if not value or value == usual:  # what an answer lacks is no jump
            continue
        others = len(values) - copies[folded[place]]
        if others < FEWEST or counts[usual] < USUAL * others:
            continue
        if counts[value] - copies[folded[place]] <= RARE * others:
            found[place] = f"its {name} is {value}, that of the others {usual}"
    return found


def _find_lengths(labels: Sequence[str]) -> dict[int, str]:
    """Return the answers whose length is far from the others' (by the median absolute deviation of
    its logarithm).
    """
    lengths = np.log([max(1, len(label)) for label in labels])
    middle = float(np.median(lengths))
    spread = max(math.log(3), 4 * 1.4826 * float(np.median(np.abs(lengths - middle))))
    return {
        int(
            place
        ): f"it has {len(labels[place])} characters, the others about {math.exp(middle):.0f}"
        for place in np.flatnonzero(np.abs(lengths - middle) > spread)
    }


def _fold(label: str) -> str:
    """Return a label without case, outer punctuation and differences of white space."""
    return " ".join(label.split()).strip(" .,;:!?\"'`*()[]«»„“”「」").casefold()


def _holds(text: str, folded: str) -> bool:
    """Return whether a text holds a folded label, in spaced scripts as whole words."""
    flat = " ".join(text.split()).casefold()
    if len(folded) < 2 or folded not in flat:
        return False
    if not folded.isascii():
        return True
    return re.search(rf"(?<!\w){re.escape(folded)}(?!\w)", flat) is not None


def _name_shape(label: str) -> str:
    return "code or mark-up" if label.lstrip().startswith(CODE_STARTS) else "text"


def _name_lines(label: str) -> str:
    return "several lines" if "\n" in label.strip() else "one line"


def _name_case(label: str) -> str:
    letters = "".join(filter(str.isalpha, label))
    if len(letters) < 2 or letters.upper() == letters.lower():
        return ""
    return "upper" if letters.isupper() else "lower" if letters.islower() else "mixed"


def _name_ending(label: str) -> str:
    return (
        "a full stop"
        if label.rstrip("\"' ").endswith((".", "!", "?", "。", "…"))
        else "no full stop"
    )


def _name_characters(label: str) -> str:
    letters = any(map(str.isalpha, label))
    digits = any(map(str.isdigit, label))
    return {(True, False): "letters", (False, True): "digits", (True, True): "both"}.get(
        (letters, digits), "neither"
    )
