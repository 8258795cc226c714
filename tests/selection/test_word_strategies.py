"""HADAS, TE-delfy, NGF-SMP: strategies that read texts."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from nltk.stem.porter import PorterStemmer
from scipy.spatial.distance import jensenshannon
from scipy.stats import rankdata

from atgen_ray.scoring import FAITHFULNESS, mean_token_entropy
from atgen_ray.selection.kernels.ngrams import find_phrases
from atgen_ray.testing.pools import Pool, make_pool

FACTS = "Ada Lovelace wrote the first program in 1843. Charles Babbage built the engine."


def hadas_pool():
    """Outputs: one that copies the source, one made up, one between, an empty and a failed one; and
    two labels.
    """
    outputs = [
        "Ada Lovelace wrote the first program.",
        "Elvis sang in Memphis in 1956.",
        "Ada wrote songs in 1843.",
        "",
    ]
    ids = ["copy", "false", "half", "mute", "none", "seen", "told"]
    pool = Pool(
        ids,
        [(1.0, 0.0)] * 7,
        [[-1.0]] * 4 + [None] + [[-1.0]] * 2,
        frozenset({"seen", "told"}),
        texts=[FACTS] * 7,
    )
    features = pool.features().to_pylist()
    for row, output in zip(features, [*outputs, None, "", ""], strict=True):
        row["text"] = output
    return (
        pool,
        type(pool.features()).from_pylist(features, schema=pool.features().schema),
        outputs[:3],
    )


LABELS = {
    "seen": "Ada Lovelace wrote the first program.",
    "told": "Babbage built the programs in Paris.",
}


@pytest.mark.parametrize("first", ["hallucinated", "faithful"])
def test_hadas_is_its_definition_in_both_directions(first):
    pool, features, outputs = hadas_pool()

    def judge(texts):
        scores = np.stack(
            [scorer([FACTS] * len(texts), texts) for scorer in FAITHFULNESS.values()], axis=1
        )
        return scores if first == "faithful" else 1 - scores

    def divergence(row, other):
        one, two = (
            scores / scores.sum() if scores.sum() else np.full(3, 1 / 3) for scores in (row, other)
        )
        return jensenshannon(one, two) ** 2

    scores, known = judge(outputs), judge(list(LABELS.values()))
    diversity = np.array([np.mean([divergence(row, other) for other in known]) for row in scores])
    expected = 0.33 * diversity + 0.67 * 0.33 * scores.sum(axis=1)
    table = pool.select("hadas", 5, {"first": first}, features=features, labels=LABELS)
    found = {row["id"]: row["score"] for row in table.to_pylist()[:3]}
    assert found == pytest.approx(dict(zip(["copy", "false", "half"], expected, strict=True)))
    assert set(table["id"].to_pylist()[3:]) == {"mute", "none"}


def test_hadas_puts_what_is_made_up_first():
    pool, features, _ = hadas_pool()
    options = {"diversity_weight": 0.0}
    order = pool.select("hadas", 3, options, features=features)["id"].to_pylist()
    assert order == ["false", "half", "copy"]
    turned = pool.select("hadas", 3, options | {"first": "faithful"}, features=features)[
        "id"
    ].to_pylist()
    assert turned == ["copy", "half", "false"]
    names = {
        "semantic_frames_weight": 0.0,
        "discourse_weight": 0.0,
        "content_weight": 1.0,
        "diversity_weight": 0.0,
    }
    table = pool.select("hadas", 1, names, features=features)
    assert table["score"].to_pylist() == pytest.approx(
        1 - FAITHFULNESS["source_support_words"]([FACTS], ["Elvis sang in Memphis in 1956."])
    )


def test_a_batch_of_hadas_can_be_diverse_in_itself():
    """Three outputs of one kind and one of another: with everything on diversity the other one is
    second at latest.
    """
    outputs = ["Zeus 77 zap.", "Zeus 77 zap.", "Zeus 77 zap.", "wrote program engine."]
    ids = list("abcd")
    pool = Pool(ids, [(1.0, 0.0)] * 4, [[-1.0]] * 4, texts=[FACTS] * 4)
    features = pool.features().to_pylist()
    for row, output in zip(features, outputs, strict=True):
        row["text"] = output
    features = type(pool.features()).from_pylist(features, schema=pool.features().schema)
    assert pool.select("hadas", 2, features=features)["id"].to_pylist() == ["a", "b"]
    options = {"batch_diversity": True, "diversity_weight": 0.9}
    assert pool.select("hadas", 2, options, features=features)["id"].to_pylist() == ["a", "d"]


def test_te_delfy_is_its_definition():
    pool = make_pool(60, labeled=10)
    stems = [
        [PorterStemmer().stem(word) for word in text.lower().strip(".").split()]
        for text in pool.texts
    ]
    known, rest = Counter(word for bag in stems[:10] for word in bag), stems[10:]
    counts = Counter(word for bag in rest for word in bag)
    total = sum(math.log1p(count) for count in counts.values())
    value = {
        word: math.log1p(count) / total * math.exp(-known[word]) for word, count in counts.items()
    }
    frequency = [np.mean([value[word] for word in bag]) for bag in rest]
    seen, delfy = Counter[str](), np.empty(50)
    for row in sorted(range(50), key=lambda row: -frequency[row]):
        delfy[row] = np.mean([value[word] * math.exp(-seen[word]) for word in rest[row]])
        seen.update(rest[row])
    entropy = mean_token_entropy(pool.features())[10:]
    ranks = (rankdata(entropy) - 1 + rankdata(np.round(delfy, 12)) - 1) / 98
    found = {row["id"]: row["score"] for row in pool.select("te_delfy", 50).to_pylist()}
    np.testing.assert_allclose([found[id] for id in pool.ids[10:]], ranks, atol=0.02)
    assert (
        np.mean(np.isclose([found[id] for id in pool.ids[10:]], ranks)) > 0.9
    )  # nearly equal values may swap ranks


def test_words_that_are_labelled_lose_value():
    texts = ["red apple", "blue river", "red apple pie"]
    pool = Pool(list("abc"), [(1.0, 0.0)] * 3, [[-1.0]] * 3, frozenset("c"), texts=texts)
    assert pool.select("te_delfy", 1)["id"].to_pylist() == ["b"]
    assert pool.select("te_delfy", 2, {"labeled_decay": 0})["id"].to_pylist() == ["a", "b"]


def phrases_of(texts, counted, **options):
    numbers: dict[str, int] = {}
    words = np.array(
        [numbers.setdefault(word, len(numbers)) for text in texts for word in text.split()],
        dtype=np.int64,
    )
    lengths = np.array([len(text.split()) for text in texts])
    owners, phrases, counts = find_phrases(
        words, lengths, counted, **({"longest": 4, "least": 2, "share": 0.5} | options)
    )
    assert (np.diff(owners) >= 0).all()
    return Counter(owners.tolist()), sorted(counts[np.unique(phrases)].tolist())


def test_semi_maximal_phrases():
    # "new york" occurs three times, always together: its words are no phrases. "city" occurs once.
    texts = ["new york city", "in new york", "new york"]
    assert phrases_of(texts, 3) == ({0: 1, 1: 1, 2: 1}, [3])
    # Of five "new", two are followed by "york": not more than half, so both are phrases.
    texts = ["new york", "new york", "new", "new", "new"]
    assert phrases_of(texts, 5) == ({0: 2, 1: 2, 2: 1, 3: 1, 4: 1}, [2, 5])
    assert phrases_of(["a b", "", "a b", "a b"], 2, least=1)[0] == {0: 1, 2: 1, 3: 1}
    assert phrases_of(["", ""], 2) == ({}, [])
    assert phrases_of(["a b c", "a b c"], 2, longest=2)[1] == [2, 2]


def test_phrases_never_reach_over_the_end_of_a_text():
    assert phrases_of(["a b", "a b", "b a"], 3, share=1.0)[1] == [2, 3, 3]


def test_ngf_smp_takes_frequent_new_phrases_first():
    texts = ["big deal", "big deal", "big deal", "old hat", "old hat", "x", "y", "big deal"]
    ids = list("abcdefgh")
    pool = Pool(ids, [(1.0, 0.0)] * 8, [[-1.0]] * 8, texts=texts)
    table = pool.select("ngf_smp", 3)
    assert table["id"].to_pylist() == ["a", "d", "b"]
    assert table["score"].to_pylist() == [4 / 2, 2 / 2, 0]
    known = replace(pool, labeled=frozenset("h")).select("ngf_smp", 1)
    assert known["id"].to_pylist() == ["d"]
