"""What is read from samples: probabilities, disagreement, answers and meanings."""

import math

import numpy as np
import pyarrow as pa
import pytest

from atgen_ray.core.records import FEATURES_SCHEMA
from atgen_ray.scoring import bleu_variance
from atgen_ray.scoring.disagreement import (
    answer_shares,
    entropy_of,
    meaning_shares,
    sample_distance,
)
from atgen_ray.scoring.samples import mean_sample_probability, read_samples
from atgen_ray.text.answers import normalize_answer
from atgen_ray.text.overlap import pairwise_bleu


def tabulate(*rows):
    """A features table of (greedy text, [(sample text, log-probability), ...], error) rows."""
    return pa.Table.from_pylist(
        [
            dict.fromkeys(FEATURES_SCHEMA.names)
            | {
                "id": f"x{number}",
                "text": text,
                "samples": None
                if samples is None
                else [{"text": t, "logprob": p} for t, p in samples],
                "error": error,
            }
            for number, (text, samples, error) in enumerate(rows)
        ],
        schema=FEATURES_SCHEMA,
    )


def texts(*samples):
    return [(text, -1.0) for text in samples]


BROKEN = [("y", [], None), ("y", None, None), (None, texts("a", "b"), "no output")]


def test_bleu_variance_is_the_mean_over_ordered_pairs():
    samples = ["a b c", "a b d", "x"]
    bleu = pairwise_bleu(samples)
    expected = np.mean([(1 - bleu[i, j]) ** 2 for i in range(3) for j in range(3) if i != j])
    found = bleu_variance(
        tabulate(("", texts(*samples), None), ("", texts("a", "a", "a"), None), *BROKEN)
    )
    assert found[0] == pytest.approx(expected)
    assert found[1] == 0
    assert np.isnan(found[2:]).all()
    assert math.isnan(bleu_variance(tabulate(("", texts("alone"), None)))[0])


def test_distance_of_the_samples_from_the_greedy_output():
    table = tabulate(("a b", texts("a b", "a c", "x"), None), ("", texts("", "a"), None), *BROKEN)
    np.testing.assert_allclose(sample_distance(table, "f1")[:2], [(0 + 0.5 + 1) / 3, 0.5])
    assert np.isnan(sample_distance(table, "f1")[2:]).all()
    bleu = pairwise_bleu(["a b", "a b", "a c", "x"])[0, 1:]
    assert sample_distance(table, "bleu")[0] == pytest.approx(1 - bleu.mean())


def test_probabilities_are_normalised_by_length_in_tokens():
    plain = tabulate(("", [("one", -2.0), ("one two three", -2.0)], None), *BROKEN)
    mean, variance = mean_sample_probability(
        plain
    )  # words and the end of the turn stand for tokens: 2 and 4
    probabilities = np.exp([-1.0, -0.5])
    assert mean[0] == pytest.approx(probabilities.mean())
    assert variance[0] == pytest.approx(probabilities.var())
    assert np.isnan(mean[1:]).all()
    counted = pa.table(
        {
            "samples": [[{"text": "one", "logprob": -6.0, "tokens": 3}]],
            "error": pa.array([None], pa.string()),
        }
    )
    assert mean_sample_probability(counted)[0][0] == pytest.approx(math.exp(-2))
    assert math.isnan(
        mean_sample_probability(tabulate(("", [("a", math.nan), ("b", None)], None)))[0][0]
    )


def test_samples_without_a_text_are_left_out():
    assert [
        sample.text for sample in read_samples(tabulate(("", [("a", -1.0), (None, -1.0)], None)))[0]
    ] == ["a"]


@pytest.mark.parametrize(
    ("form", "text", "answer"),
    [
        ("text", " The Eiffel-Tower! ", "eiffel tower"),
        ("text", "", ""),
        ("text", "Straße", "strasse"),
        ("last_line", "Because of this:\n\n 42. \n\n", "42"),
        ("last_number", "2 + 2 = 4.", "4"),
        ("last_number", "It costs $1,234.50", "1234.5"),
        ("last_number", "the result is −3.0", "-3"),
        ("last_number", "007", "7"),
        ("last_number", "-0.0", "0"),
        ("last_number", "1.5", "1.5"),
        ("last_number", "15", "15"),
        ("last_number", "no figure", "no figure"),
    ],
)
def test_answers(form, text, answer):
    assert normalize_answer(text, form) == answer


def test_shares_of_answers_and_their_entropy():
    table = tabulate(
        ("", texts("Rome", "rome.", "Paris", "The Rome"), None),
        ("", texts("a!", "A"), None),
        *BROKEN,
    )
    shares = answer_shares(table, "text")
    assert [share.tolist() for share in shares] == [[0.75, 0.25], [1.0], [], [], []]
    entropy = entropy_of(shares)
    assert entropy[0] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert entropy[1] == 0
    assert np.isnan(entropy[2:]).all()


def test_meanings_by_shared_words():
    samples = [
        ("it is in Rome", -1.0),
        ("it is in rome", -2.0),
        ("Paris of course", -2.0),
        ("Paris of course", -2.0),
    ]
    table = tabulate(("", samples, None), *BROKEN)
    assert meaning_shares(table, 0.7, weighted=False)[0].tolist() == [0.5, 0.5]
    # By likelihood the repeated sample counts once.
    masses = [math.exp(-1) + math.exp(-2), math.exp(-2)]
    np.testing.assert_allclose(
        meaning_shares(table, 0.7, weighted=True)[0], np.array(masses) / sum(masses)
    )
    assert len(meaning_shares(table, 0.7, weighted=True)[1]) == 0
    far = tabulate(("", [("a", -2000.0), ("b", -2001.0)], None))
    assert meaning_shares(far, 0.7, weighted=True)[0].sum() == pytest.approx(1)
