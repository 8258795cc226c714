"""Near-duplicates by MinHash."""

import random
import time

import pytest

from atgen_ray.data.duplicates import find_duplicates, read_signatures, sign_texts

WORDS = [f"word{number}" for number in range(3000)]


def duplicates(texts: list[str], threshold: float = 0.9) -> list[str | None]:
    signatures = read_signatures(b"".join(sign_texts(texts)))
    # The result does not depend on the blocks, of which some may be empty.
    blocks = [signatures[:3], signatures[3:3], signatures[3:]]
    originals = dict(zip(*map(list, find_duplicates(blocks, threshold)), strict=True))
    return [f"id{originals[row]}" if row in originals else None for row in range(len(texts))]


def sample(seed: int, length: int = 100) -> list[str]:
    return random.Random(seed).choices(WORDS, k=length)


def test_the_earliest_row_is_the_original() -> None:
    base = sample(0)
    one_word = " ".join([*base[:-1], "other"])
    texts = [
        "something else entirely here",
        " ".join(base),
        one_word,
        " ".join(base).upper() + " !",
        "x y z",
    ]
    assert duplicates(texts) == [None, None, "id1", "id1", None]


def test_originals_are_never_duplicates_themselves() -> None:
    # A row of texts that each resemble their neighbours: A ~ B ~ C, but A and C differ.
    base = sample(1, 200)
    texts = [" ".join([*sample(9, shift), *base[shift:]]) for shift in range(0, 60, 3)]
    found = duplicates(texts, 0.8)
    assert any(found)
    for original in filter(None, found):
        assert found[int(original.removeprefix("id"))] is None


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 1.0])
def test_the_threshold_is_the_jaccard_similarity_of_word_trigrams(threshold: float) -> None:
    texts, similarities = [], []
    for seed in range(60):
        base = sample(seed, 302)
        changed = 3 * seed  # words replaced at the end
        texts += [" ".join(base), " ".join(base[: 302 - changed] + sample(seed + 1000, changed))]
        similarities.append((300 - changed) / (300 + changed))
    found = duplicates(texts, threshold)
    for pair, similarity in enumerate(similarities):
        if similarity >= min(threshold + 0.08, 1.0):
            assert found[2 * pair + 1] == f"id{2 * pair}"
        if similarity < threshold - 0.08:
            assert found[2 * pair + 1] is None


def test_case_punctuation_and_spacing_do_not_matter_but_word_order_does() -> None:
    assert duplicates(["Is it red, or blue?", "is it   red or blue", "or blue is it red"]) == [
        None,
        "id0",
        None,
    ]


def test_short_texts_are_compared_whole() -> None:
    texts = ["yes", "no", "Yes!", "yes no", "no yes", "?", "!", "?", "", " "]
    assert duplicates(texts) == [None, None, "id0", None, None, None, None, "id5", None, "id8"]


def test_nothing_in_nothing_out() -> None:
    assert duplicates([]) == []


def test_more_identical_rows_than_a_bucket_holds() -> None:
    found = duplicates(["the same question again"] * 500 + ["a different one this time"])
    assert found == [None, *["id0"] * 499, None]


def test_a_pool_of_look_alikes_takes_linear_time_and_keeps_its_rows() -> None:
    texts = [
        f"what is the capital of the old country in the far north that is called {word}"
        for word in WORDS
    ]
    signatures = read_signatures(b"".join(sign_texts(texts)))
    began = time.process_time()
    found, _ = find_duplicates([signatures], 0.95)
    assert time.process_time() - began < 5
    assert len(found) < len(texts) * 0.1


def test_rows_are_compared_one_after_the_other_with_the_originals_so_far() -> None:
    generator = random.Random(5)
    texts: list[str] = []
    for _ in range(400):
        words = generator.choice(texts).split() if texts and generator.random() < 0.6 else sample(7)
        for _ in range(generator.choice([0, 1, 4])):
            words[generator.randrange(len(words))] = generator.choice(WORDS)
        texts.append(" ".join(words))
    signatures = read_signatures(b"".join(sign_texts(texts)))
    expected: list[str | None] = []
    for row, signature in enumerate(signatures):
        likeness = (signatures[:row] == signature).mean(axis=1)
        originals = (each for each in range(row) if expected[each] is None)
        first = next((each for each in originals if likeness[each] >= 0.8), None)
        expected.append(None if first is None else f"id{first}")
    found = duplicates(texts, 0.8)
    assert sum(each is not None for each in expected) > 100
    # The bands miss some of the pairs that are just at the threshold.
    assert sum(one != other for one, other in zip(found, expected, strict=True)) <= 4
