"""BLEU and word overlap of all pairs, against sacrebleu, nltk and numbers worked out by hand."""

import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from atgen_ray.text.overlap import pairwise_bleu, pairwise_f1

words = st.lists(st.sampled_from("abcde"), max_size=9).map(" ".join)


def test_bleu_by_hand():
    # 4 of 4 words, 2 of 3 pairs, 1 of 2 triples, 0 of 1 quadruples; for n > 1 one is added to both
    # counts.
    scores = pairwise_bleu(["a b c e", "a b c x e"])
    assert scores[0, 1] == pytest.approx((1 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25 * math.exp(1 - 5 / 4))
    # 4 of 5 words, 2 of 4 pairs, 1 of 3 triples, 0 of 2 quadruples; the longer text has no penalty.
    assert scores[1, 0] == pytest.approx((4 / 5 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert scores.diagonal().tolist() == [1, 1]


def test_bleu_of_texts_without_words_and_of_repeats():
    scores = pairwise_bleu(["", "a", "", "a", "b"])
    expected = [[1, 0, 1, 0, 0], [0, 1, 0, 1, 0], [1, 0, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 0, 1]]
    np.testing.assert_array_equal(scores, expected)


@settings(max_examples=80, deadline=None)
@given(texts=st.lists(words, min_size=1, max_size=5))
def test_bleu_is_that_of_sacrebleu(texts):
    scores = pairwise_bleu(texts)
    for row, hypothesis in enumerate(texts):
        for column, reference in enumerate(texts):
            if hypothesis and reference:
                library = sacrebleu.sentence_bleu(
                    hypothesis,
                    [reference],
                    smooth_method="add-k",
                    smooth_value=1,
                    tokenize="none",
                    use_effective_order=False,
                )
                assert scores[row, column] == pytest.approx(library.score / 100, abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(
    hypothesis=st.lists(st.sampled_from("abcd"), min_size=4, max_size=9),
    reference=st.permutations(list("abcdab")),
)
def test_bleu_is_that_of_nltk_where_both_have_four_words(hypothesis, reference):
    library = sentence_bleu([reference], hypothesis, smoothing_function=SmoothingFunction().method2)
    assert pairwise_bleu([" ".join(hypothesis), " ".join(reference)])[0, 1] == pytest.approx(
        library, abs=1e-12
    )


@given(texts=st.lists(words, min_size=1, max_size=6), data=st.data())
@settings(max_examples=50, deadline=None)
def test_a_pair_depends_on_nothing_else(texts, data):
    order = data.draw(st.permutations(range(len(texts))))
    for pairwise in (pairwise_bleu, pairwise_f1):
        whole = pairwise(texts)
        np.testing.assert_array_equal(
            pairwise([texts[row] for row in order]), whole[np.ix_(order, order)]
        )
        assert whole.min() >= 0
        assert whole.max() <= 1


def test_f1_by_hand():
    scores = pairwise_f1(["The cat sat", "the CAT", "a dog", "", ""])
    np.testing.assert_allclose(scores[0], [1, 0.8, 0, 0, 0])
    np.testing.assert_allclose(scores[3], [0, 0, 0, 1, 1])


def test_scripts_without_spaces_are_compared_by_character():
    assert pairwise_f1(["日本語", "日本"])[0, 1] == pytest.approx(0.8)
