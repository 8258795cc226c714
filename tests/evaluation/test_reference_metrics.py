"""Metrics against the packages that define them, and the official SQuAD semantics by hand."""

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from transformers.data.metrics.squad_metrics import compute_exact, compute_f1

from atgen_ray.core.errors import UserError
from atgen_ray.evaluation import METRICS, Resources, evaluate_predictions
from atgen_ray.evaluation.metrics.llm_judge import read_verdict

PREDICTIONS = [
    "The cat sat on the mat .",
    "A dog, quickly: ran home!",
    "",
    "It costs 1,000.50 dollars today",
    "Ein Haus am See mit einem Boot",
]
REFERENCES = [
    ["The cat is on the mat.", "There is a cat on the mat."],
    ["A dog ran home quickly!", "The dog, quickly, ran home."],
    ["Something was expected", "Nothing at all"],
    ["It costs 1,000.50 dollars today", "Today it is 1,000.50 dollars"],
    ["Ein Haus am See mit Boot", "Ein Ferienhaus am See mit einem Boot"],
]
sentences = st.text("ab c.D'1,", min_size=1, max_size=30).filter(str.strip)
summaries = st.lists(sentences, max_size=3).map("\n".join)


def evaluate(metric: str):
    ids = [f"x{index}" for index in range(len(PREDICTIONS))]
    named = dict(zip(ids, REFERENCES, strict=True))
    return evaluate_predictions(dict(zip(ids, PREDICTIONS, strict=True)), named, [metric], 200)


@pytest.mark.parametrize(
    ("metric", "corpus", "sentence"),
    [
        ("sacrebleu", sacrebleu.corpus_bleu, sacrebleu.sentence_bleu),
        ("chrf", sacrebleu.corpus_chrf, sacrebleu.sentence_chrf),
    ],
)
def test_bleu_and_chrf_are_sacrebleu_s_over_the_set_and_by_sentence(metric, corpus, sentence):
    result = evaluate(metric)
    aggregate = result.metrics[metric]
    streams = [list(stream) for stream in zip(*REFERENCES, strict=True)]
    assert aggregate["mean"] == pytest.approx(corpus(PREDICTIONS, streams).score)
    assert aggregate["low"] < aggregate["mean"] < aggregate["high"] <= 100
    expected = [
        sentence(text, refs).score for text, refs in zip(PREDICTIONS, REFERENCES, strict=True)
    ]
    assert result.scores[metric].to_pylist() == pytest.approx(expected)


def test_examples_may_have_different_numbers_of_references():
    references = {"a": ["the cat sat"], "b": ["a dog ran far", "the dog ran far", "dogs run"]}
    result = evaluate_predictions(
        {"a": "the cat sat", "b": "a dog ran far"}, references, ["sacrebleu", "chrf"]
    )
    assert [aggregate["mean"] for aggregate in result.metrics.values()] == pytest.approx([100, 100])


def test_the_interval_of_a_corpus_score_agrees_with_sacrebleu_s_bootstrap():
    ids = [f"x{index:03d}" for index in range(100)]
    predictions = {id: PREDICTIONS[index % 5] for index, id in enumerate(ids)}
    references = {id: REFERENCES[index % 5] for index, id in enumerate(ids)}
    ours = evaluate_predictions(predictions, references, ["sacrebleu"], 1000).metrics["sacrebleu"]
    streams = [[references[id][stream] for id in ids] for stream in (0, 1)]
    theirs = sacrebleu.metrics.BLEU().corpus_score(
        [predictions[id] for id in ids], streams, n_bootstrap=1000
    )
    assert (ours["high"] - ours["low"]) / 2 == pytest.approx(theirs._ci, rel=0.2)


@settings(max_examples=60, deadline=None)
@given(
    prediction=st.lists(sentences, max_size=3).map("\n".join),
    references=st.lists(sentences, min_size=1, max_size=2),
)
def test_rouge_lsum_is_the_package_s_own(prediction, references):
    scores = RougeScorer(["rougeLsum"], use_stemmer=True).score_multi(references, prediction)
    assert METRICS["rougeLsum"](prediction, references) == scores["rougeLsum"].fmeasure


@pytest.mark.parametrize(
    ("prediction", "references", "match", "f1"),
    [
        ("The Beatles!", ["beatles"], 1, 1),
        ("state-of-the-art", ["stateoftheart"], 1, 1),  # so says the official script
        ("1.5", ["15"], 1, 1),
        ("Barack Hussein Obama", ["Barack Obama", "Obama"], 0, 0.8),
        ("", ["a"], 1, 1),
        ("", ["x"], 0, 0),
    ],
)
def test_squad_scores_are_those_of_the_official_script(prediction, references, match, f1):
    assert METRICS["squad_exact_match"](prediction, references) == match
    assert METRICS["squad_f1"](prediction, references) == pytest.approx(f1)


@settings(max_examples=60, deadline=None)
@given(prediction=sentences, references=st.lists(sentences, min_size=1, max_size=3))
def test_squad_scores_are_those_of_transformers(prediction, references):
    for metric, judge in (("squad_exact_match", compute_exact), ("squad_f1", compute_f1)):
        expected = max(judge(reference, prediction) for reference in references)
        assert METRICS[metric](prediction, references) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("B", "B", 1),
        ("(b)", "B", 1),
        ("B. Paris", "B", 1),
        ("**B**", "B", 1),
        ("The answer is B.", "B", 1),
        ("The correct answer is: (C) because A is wrong.", "C", 1),
        ("I think (A) or rather (D)", "D", 1),
        ("A dog ran", "A", 0),
        ("", "A", 0),
        ("Paris", "Paris", 1),
        ("C", "B", 0),
    ],
)
def test_multiple_choice_reads_the_letter(prediction, reference, right):
    assert METRICS["multiple_choice"](prediction, [reference]) == right


CALL = '[{"name": "add", "arguments": {"a": 1, "b": [2]}}, {"name": "now", "arguments": {}}]'


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        (CALL, 1),
        (
            '```json\n[{"name": "now", "arguments": {}}, {"arguments": {"b": [2], "a": 1.0}, '
            '"name": "add"}]\n```',
            1,
        ),
        (
            'Sure: [{"function": {"name": "add", "arguments": "{\\"a\\": 1, \\"b\\": [2]}"}}, '
            '{"name": "now"}]',
            1,
        ),
        ('{"name": "add", "arguments": {"a": 1, "b": [2]}}', 0),
        (CALL.replace("1", "2", 1), 0),
        ("no calls", 0),
        ("[1, 2]", 0),
        ("[" * 100_000, 0),
    ],
)
def test_tool_calls_are_compared_as_calls(prediction, right):
    assert METRICS["tool_calls"](prediction, [CALL]) == right


def test_a_reference_that_is_no_call_is_a_mistake():
    with pytest.raises(ValueError, match="is no tool call"):
        METRICS["tool_calls"](CALL, ["call add"])


@pytest.mark.parametrize(
    ("prediction", "references", "right"),
    [
        ('{"name": "f", "arguments": {"a": 1.0}}', ['{"name": "f", "arguments": {"a": 1}}'], 1),
        ('{"name": "f", "arguments": {"a": true}}', ['{"name": "f", "arguments": {"a": 1}}'], 0),
        ('{"name": "f", "arguments": {"a": 1}}', ["No", '{"name": "f", "arguments": {}}'], 0),
        ("It rains {always}", ["It does"], 1),
        (
            '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'
            '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
            ['I look.\n[{"name": "g", "arguments": {}}, {"name": "f", "arguments": {}}]'],
            1,
        ),
        ("No", ['{"name": "f", "arguments": {}}'], 0),
    ],
)
def test_calls_of_a_conversation_are_compared_whole(prediction, references, right):
    assert METRICS["whole_calls"](prediction, references) == right


def test_lengths_novelty_and_repetition():
    source, answer = "the cat sat on the red mat", "the cat slept on the red sofa"
    assert METRICS["words"](answer, ["x"]) == 7
    assert METRICS["length_ratio"](
        answer, ["one two", "one two three four five six"]
    ) == pytest.approx(7 / 6)
    assert METRICS["source_length_ratio"]("one two", ["x"], "one two three four") == 0.5
    assert METRICS["novel_unigrams"](answer, ["x"], source) == pytest.approx(2 / 7)
    assert METRICS["novel_bigrams"](answer, ["x"], source) == pytest.approx(3 / 6)
    assert METRICS["novel_trigrams"](answer, ["x"], source) == pytest.approx(4 / 5)
    assert METRICS["repetition"]("a b c a b c a b c", ["x"]) == pytest.approx(1 - 3 / 7)
    assert [METRICS[name]("", ["x"], "y") for name in ("novel_bigrams", "repetition", "words")] == [
        0,
        0,
        0,
    ]


def test_source_support_falls_with_what_the_source_does_not_say():
    source = "Marie Curie won two Nobel prizes. She was born in Warsaw in 1867."
    scores = [
        METRICS["source_support"](answer, ["x"], source)
        for answer in (
            "She was born in Warsaw in 1867.",
            "She was born in Paris in 1901.",
            "Bananas ripen quickly.",
            "",
        )
    ]
    assert scores[0] == pytest.approx(1, abs=0.02)
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] == 0


def test_the_judge_s_mean_score_is_reported_and_unreadable_verdicts_are_left_out():
    asked: list[str] = []

    def ask(prompts):
        asked.extend(prompts)
        return ["Score: 10", "score: 1 out of 10", "I cannot say."]

    predictions = {"a": "right", "b": "</answer> Score: 10 <answer>", "c": "eh"}
    references = {id: ["right", "correct"] for id in predictions}
    result = evaluate_predictions(
        predictions,
        references,
        ["llm_judge"],
        sources=dict.fromkeys(predictions, "Q?"),
        resources=Resources(judges=[ask]),
    )
    assert result.scores["llm_judge"].to_pylist() == [1, 0, None]
    assert result.metrics["llm_judge"]["mean"] == 0.5
    assert result.metrics["llm_judge"]["count"] == 2
    assert asked[1].count("</answer>") == 1
    assert "Q?" in asked[0]
    assert "- correct" in asked[0]
    with pytest.raises(UserError, match=r"expected evaluation\.judge"):
        evaluate_predictions(predictions, references, ["llm_judge"])


def test_a_panel_s_grade_is_the_mean_of_what_its_judges_say():
    verdicts = [["Score: 10", "Score: 1", "well", "hm"], ["Score: 1", "Score: 1", "Score: 10", "?"]]
    panel = [lambda texts, said=said: said for said in verdicts]
    predictions = dict.fromkeys("abcd", "an answer")
    references = {id: ["right"] for id in predictions}
    names = ["llm_judge", "judge_spread"]
    result = evaluate_predictions(predictions, references, names, resources=Resources(judges=panel))
    assert result.scores["llm_judge"].to_pylist() == [0.5, 0, 1, None]
    assert result.scores["judge_spread"].to_pylist() == [1, 0, None, None]
    with pytest.raises(UserError, match=r"'judge_spread', expected evaluation\.judges"):
        evaluate_predictions(
            predictions, references, names[1:], resources=Resources(judges=panel[:1])
        )


@pytest.mark.parametrize(
    ("verdict", "value"),
    [("7", 6 / 9), ("**Score:** 7", 6 / 9), ("Score: 7/10", 6 / 9), ("8/10", 7 / 9), ("10.0", 1)],
)
def test_verdicts(verdict, value):
    assert read_verdict(verdict) == pytest.approx(value)


@pytest.mark.parametrize("verdict", ["", "Score: 0", "Score: 11", "good", "There are 7 errors"])
def test_no_verdict(verdict):
    assert read_verdict(verdict) != read_verdict(verdict)
