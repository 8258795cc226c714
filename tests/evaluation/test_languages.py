"""Words, answers and defaults in many scripts."""

import pytest

from atgen_ray.config import EvaluationConfig
from atgen_ray.evaluation import METRICS, choose_metrics

# script: (prediction, reference, token F1, ROUGE-1)
SCRIPTS = {
    "Chinese": ("北京大学。", "北京", 2 / 3, 2 / 3),
    "Japanese": ("東京タワー", "東京", 4 / 7, 4 / 7),
    "Thai": ("ประเทศไทย", "ประเทศไทย!", 1, 1),
    "Arabic": ("كِتَابٌ جَدِيد", "كتـاب جديد،", 1, 1),
    "Devanagari": ("नई दिल्ली।", "दिल्ली", 2 / 3, 2 / 3),
    "Cyrillic": ("Большой театр", "большой Театр.", 1, 1),
    "Greek": ("Αθήνας", "ΑΘΉΝΑΣ", 1, 1),
    "Hangul": ("서울 특별시", "서울", 2 / 3, 2 / 3),
    "Hebrew": ("תל אביב", "תל־אביב", 1, 1),
    "German": ("Donaudampfschiff fährt", "donaudampfschiff", 2 / 3, 2 / 3),
    "Bengali": ("ঢাকা ১২", "ঢাকা 12", 1, 1),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_words_of_every_script_count(script):
    prediction, reference, f1, rouge1 = SCRIPTS[script]
    assert METRICS["token_f1"](prediction, [reference]) == pytest.approx(f1)
    assert METRICS["exact_match"](prediction, [reference]) == (f1 == 1)
    assert METRICS["rouge1"](prediction, [reference]) == pytest.approx(rouge1)
    for metric in ("rouge1", "token_f1", "exact_match"):
        assert METRICS[metric](reference, [reference]) == 1
    for metric in ("chrf", "sacrebleu"):
        assert METRICS[metric](reference, [reference]) == pytest.approx(100)
        assert METRICS[metric]("zzz qqq", [reference]) < 5


def test_german_folds_to_one_spelling():
    assert METRICS["exact_match"]("STRASSE", ["Straße"]) == 1
    assert METRICS["exact_match"]("Masse", ["Maße"]) == 1
    assert METRICS["exact_match"]("Uber", ["Über"]) == 0


def test_chrf_sees_the_parts_of_a_compound_that_words_do_not():
    prediction, reference = "Schifffahrt Gesellschaft", "Schifffahrtsgesellschaft"
    assert METRICS["rouge1"](prediction, [reference]) == 0
    assert METRICS["chrf"](prediction, [reference]) > 60


def test_sacrebleu_parts_text_without_spaces():
    assert METRICS["sacrebleu"]("我今天早上去学校", ["我今天早上去了学校"]) > 50
    assert METRICS["sacrebleu"]("東京タワーへ行く", ["東京タワーへ行った"]) > 50
    assert METRICS["sacrebleu"]("ฉันไปโรงเรียน", ["ฉันไปโรงเรียนแล้ว"]) > 50


@pytest.mark.parametrize(
    ("references", "has_chrf"),
    [
        (["我去学校", "他来了"], True),
        (["学校へ行く"], True),
        (["ฉันไปโรงเรียน"], True),
        (["안녕 하세요"], False),
        (["The cat", "我去学校", "A dog"], False),
        (["1234", "..."], False),
    ],
)
def test_chrf_is_a_default_where_words_are_not_separated(references, has_chrf):
    assert EvaluationConfig().metrics is None
    assert ("chrf" in choose_metrics(None, (), references)) == has_chrf
    assert choose_metrics(["rougeL"], ("chrf",), references) == ["rougeL"]


def test_what_steers_stopping_is_always_computed():
    assert choose_metrics(None, ("bertscore", "rougeL"), ["a b"])[-1] == "bertscore"
