"""Equal numbers and expressions, and what only looks equal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from math_verify import parse, verify

from atgen_ray.evaluation import METRICS, evaluate_predictions
from atgen_ray.evaluation.metrics.mathematics import find_final, parse_number

PLAIN = [
    ("1.5", "15", 0),
    ("-3", "3", 0),
    ("−3", "-3", 1),
    ("3/4", "34", 0),
    ("1,000", "1000", 1),
    ("10,000,000", "1e7", 1),
    ("3/4", "0.75", 1),
    (r"\frac{3}{4}", "0.75", 1),
    ("½", "0.5", 1),
    ("1 1/2", "1.5", 1),
    ("0.333333", "1/3", 1),
    ("0.33", "1/3", 0),
    ("$18", "18", 1),
    ("18 dollars", "18", 1),
    ("50%", "50", 1),
    ("x = 5", "5", 1),
    ("٣", "3", 1),
    ("", "5", 0),
    ("The answer is $18.", "16 - 3 = 13 and so\n#### 18", 1),
    ("He has 3, then 7 more. That makes 10 in total", "10", 1),
    ("The result is 5. Then he slept 8 hours.", "5", 1),
    (r"so \boxed{\frac{3}{4}}", r"thus $\boxed{0.75}$", 1),
    ("9" * 5000, "9", 0),
    ("100000000001", "100000000002", 0),
    ("2500001", "2500000", 0),
    ("2500001", "2500000.0", 0),
    ("2500000.5", "2500000.75", 0),
    ("$1,000,000.10", "$1,000,000.11", 0),
    ("0.30000000000000004", "0.3", 1),
    ("10000000000000001", "10000000000000000", 0),
    ("0.666667", "2/3", 1),
    ("833333", "2500000/3", 0),
    ("833333.5", "2500000/3", 0),
    ("833333.3", "2500000/3", 1),
    ("3 1/2", "31/2", 0),
    ("3 1/2", "7/2", 1),
    ("3½", "31/2", 0),
    ("3½", "3.5", 1),
    (r"3\frac{1}{2}", "31/2", 0),
    (r"-3\frac{1}{2}", "-3.5", 1),
    ("He ate 3 1/2 of the pies and was full", "3.5", 1),
    ("1 000 000", "1000000", 1),
    ("(0,1]", "( 0 , 1 ]", 1),
    ("( 0 , 1 ]", "(0,1]", 1),
    (r"\left(0,1\right]", "( 0 , 1 ]", 1),
    ("$( 0 , 1 ]$", "(0,1]", 1),
    ("The answer is ( 0 , 1 ]. Then it ends.", "(0,1]", 1),
    ("so x lies in ( 0 , 1 ]", "(0,1]", 1),
    (r"\{ 1 , 2 , 3 \}", r"\{1,2,3\}", 1),
    ("That makes 10 in total (3 apples, 7 pears)", "7", 1),
]
SYMBOLIC = [
    ("1 2", "12", 0),
    ("1", "( 0 , 1 ]", 0),
    ("( 0 , 1 ]", "1", 0),
    ("so x lies in ( 0 , 1 ]", "1", 0),
    ("(0,1)", "(0,1]", 0),
    ("( 0 , 1 ]", "[ 0 , 1 ]", 0),
    ("( 3 , 4 , 5 )", "5", 0),
    (r"[ 0 , \frac{1}{2} ]", "[0,0.5]", 1),
    (r"\boxed{2\sqrt{3}}", r"\boxed{\sqrt{12}}", 1),
    (r"$x^2+2x+1$", r"$(x+1)^2$", 1),
    (r"\boxed{(1,2)}", r"\boxed{(2,1)}", 0),
    (r"\boxed{\{1,2\}}", r"\boxed{\{2,1\}}", 1),
    (r"\frac{\pi}{2}", r"\boxed{\pi/2}", 1),
    ("no idea", "5", 0),
    ("__import__('os').system('false')", "0", 0),
]


def test_plain_and_symbolic_answers():
    cases = PLAIN + SYMBOLIC
    predictions = {f"x{index:02d}": case[0] for index, case in enumerate(cases)}
    references = {f"x{index:02d}": [case[1]] for index, case in enumerate(cases)}
    scores = (
        evaluate_predictions(predictions, references, ["math_equal"])
        .scores["math_equal"]
        .to_pylist()
    )
    wrong = [case for case, score in zip(cases, scores, strict=True) if case[2] != score]
    assert not wrong


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (r"\boxed{2\sqrt{3}}", r"\boxed{\sqrt{12}}"),
        (r"\boxed{(1,2)}", r"\boxed{(2,1)}"),
        (r"\boxed{\frac{3}{4}}", r"\boxed{0.75}"),
        (r"\boxed{1.5}", r"\boxed{15}"),
        (r"\boxed{-3}", r"\boxed{3}"),
        (r"\boxed{x^2-1}", r"\boxed{(x-1)(x+1)}"),
    ],
)
def test_verdicts_are_those_of_math_verify(answer, right):
    assert METRICS["math_equal"](answer, [right]) == verify(parse(right), parse(answer))


def test_plain_numbers_start_no_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("subprocess.run", None)
    for prediction, reference, equal in PLAIN:
        if len(prediction) < 200:
            assert METRICS["math_equal"](prediction, [reference]) == equal


def test_any_reference_counts():
    assert METRICS["math_equal"]("7", ["5", "7.0"]) == 1


@given(number=st.decimals(-(10**9), 10**9, places=3))
def test_every_number_equals_itself_however_it_is_written(number):
    assert parse_number(f"{number:,}") == parse_number(f"{number}") == parse_number(f"{number} kg")


@pytest.mark.parametrize(
    ("text", "final"),
    [
        (r"a \boxed{1} b \boxed{\frac{1}{2}} c", r"\frac{1}{2}"),
        ("x\n#### 1,234\nignored", "1,234"),
        ("The answer: 3.5.", "3.5"),
        ("#### ", ""),
        (r"\boxed{unclosed", "unclosed"),
    ],
)
def test_the_final_answer_of_a_solution(text, final):
    assert find_final(text) == final
