"""Metrics against the rouge-score package and cases worked out by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from atgen_ray.evaluation import METRICS, Resources
from atgen_ray.evaluation.metric import Case

ROUGE = ("rouge1", "rouge2", "rougeL")
FRACTIONS = (
    *ROUGE,
    "rougeLsum",
    "exact_match",
    "token_f1",
    "squad_exact_match",
    "squad_f1",
    "multiple_choice",
)
WORDS = (
    "the",
    "running",
    "runner",
    "runs",
    "Dogs",
    "dog's",
    "1.5",
    "15",
    "state-of-the-art",
    "___",
    "U.S.",
    "in\tit",
    "?!",
)
words = st.sampled_from(WORDS)
ascii_text = st.text(st.characters(max_codepoint=127), max_size=40) | st.lists(
    words, max_size=15
).map(" ".join)
any_text = st.text(max_size=30) | ascii_text


@settings(max_examples=150, deadline=None)
@given(prediction=ascii_text, references=st.lists(ascii_text, min_size=1, max_size=3))
def test_rouge_is_the_package_s_own_on_ascii_text(prediction, references):
    scores = RougeScorer(ROUGE, use_stemmer=True).score_multi(references, prediction)
    for kind in ROUGE:
        assert METRICS[kind](prediction, references) == scores[kind].fmeasure


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("кошка сидит на окне", "кошка спит на окне", (3 / 4, 1 / 3, 3 / 4)),
        ("हिन्दी भाषा", "हिन्दी भाषा", (1, 1, 1)),
        ("हिन्दी भाषा", "हिन्दू भाषा", (1 / 2, 0, 1 / 2)),
        ("北京大学", "北京", (2 / 3, 1 / 2, 2 / 3)),
        ("我爱北京。", "北京 我爱!", (1, 2 / 3, 1 / 2)),
        ("ประเทศไทย", "ประเทศไทย", (1, 1, 1)),
        ("한국어 문장", "한국어 단어", (1 / 2, 0, 1 / 2)),
        ("naïve cafés", "naive cafés", (1 / 2, 0, 1 / 2)),
        ("cafe\u0301s", "caf\u00e9s", (1, 0, 1)),
        ("Größe runs", "größe running", (1, 1, 1)),
        ("ＡＢＣ １２", "abc 12", (1, 1, 1)),
        ("东京 runs", "东京 running", (1, 1, 1)),
        ("🙂", "🙂", (0, 0, 0)),
        ("", "", (0, 0, 0)),
    ],
)
def test_rouge_counts_words_of_every_script(prediction, reference, expected):
    assert tuple(METRICS[kind](prediction, [reference]) for kind in ROUGE) == pytest.approx(
        expected
    )


@pytest.mark.parametrize(
    ("prediction", "references", "match", "f1"),
    [
        ("The Beatles", ["beatles"], 1, 1),
        ("an apple, a day", ["Apple day!"], 1, 1),
        ("theatre", ["atre"], 0, 0),
        ("1.5", ["15"], 0, 0),
        ("1.5", ["1.5"], 1, 1),
        ("3/4", ["34"], 0, 0),
        ("well-known fact", ["well known fact"], 1, 1),
        ("snake_case", ["snake case"], 1, 1),
        ("“Hello”—world…", ["hello world"], 1, 1),
        ("l’État", ["l'état"], 1, 1),
        ("Barack Hussein Obama", ["Barack Obama", "Obama"], 0, 0.8),
        ("Obama", ["Barack Obama", "Obama"], 1, 1),
        ("cat cat dog", ["cat dog dog"], 0, 2 / 3),
        ("", [""], 1, 1),
        ("the", ["..."], 1, 1),
        ("", ["something"], 0, 0),
        ("something", ["", "other"], 0, 0),
        ("北京大学", ["北京"], 0, 2 / 3),
        ("《北京》。", ["北京"], 1, 1),
        ("東京 タワー", ["東京タワー"], 1, 1),
        ("cafe\u0301", ["caf\u00e9"], 1, 1),
        ("  New\n York ", ["new york"], 1, 1),
    ],
)
def test_exact_match_and_f1_by_hand(prediction, references, match, f1):
    assert METRICS["exact_match"](prediction, references) == match
    assert METRICS["token_f1"](prediction, references) == pytest.approx(f1)


@pytest.mark.parametrize(
    "metric", [*FRACTIONS, "math_equal", "tool_calls", "sacrebleu", "chrf", "length_ratio"]
)
def test_a_row_without_references_is_not_judged(metric):
    right = '{"name": "look", "arguments": {}}'
    cases = [Case(right, [right]), Case("an answer", [])]
    first, second = METRICS[metric].score(cases, Resources())
    assert first >= 1
    assert math.isnan(second)


@pytest.mark.parametrize(
    "metric", ["words", "repetition", "source_support", "novel_bigrams", "source_length_ratio"]
)
def test_what_needs_no_references_is_judged_without(metric):
    assert math.isfinite(METRICS[metric]("an answer", [], "its source"))


@pytest.mark.parametrize("metric", FRACTIONS)
@settings(max_examples=50, deadline=None)
@given(prediction=any_text, references=st.lists(any_text, min_size=1, max_size=3), data=st.data())
def test_values_are_fractions_and_the_best_reference_counts(metric, prediction, references, data):
    value = METRICS[metric](prediction, references)
    assert isinstance(value, float)
    assert 0 <= value <= 1
    assert value == max(METRICS[metric](prediction, [reference]) for reference in references)
    assert value == METRICS[metric](prediction, data.draw(st.permutations(references)))
