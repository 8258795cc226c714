"""Source support on texts where the answer is plain."""

import math

import pytest

from atgen_ray.scoring import FAITHFULNESS
from atgen_ray.text.support import entity_support, sentence_support, word_support

SOURCE = (
    "Marie Curie moved to Paris in 1891. She won two Nobel Prizes. Her daughter Irene also won one."
)


@pytest.mark.parametrize("name", FAITHFULNESS)
def test_a_copy_is_supported_an_invention_less_and_nothing_is_not_judged(name):
    outputs = [SOURCE, "Albert Einstein visited Berlin in 1905 with Niels Bohr.", "", "?!"]
    copied, invented, *nothing = FAITHFULNESS[name]([SOURCE] * 4, outputs)
    assert copied == 1
    assert 0 <= invented < 0.4
    assert all(math.isnan(value) for value in nothing)


@pytest.mark.parametrize("name", FAITHFULNESS)
def test_a_source_without_words_supports_nothing(name):
    assert FAITHFULNESS[name](["", "..."], ["Rome 4 Ada", "in Rome"]).tolist() == [0, 0]


@pytest.mark.parametrize("name", FAITHFULNESS)
def test_examples_do_not_touch_each_other(name):
    outputs = ["Marie Curie won.", "Curies moving 1892", "She won two prizes in Rome."]
    together = FAITHFULNESS[name]([SOURCE] * 3, outputs)
    assert together.tolist() == [FAITHFULNESS[name]([SOURCE], [output])[0] for output in outputs]


def test_names_and_figures():
    assert entity_support([SOURCE], ["Then Curie left Paris for Rome in 1891."])[0] == 3 / 4
    assert entity_support([SOURCE], ["she went home"])[0] == 1  # nothing to check


def test_every_sentence_looks_for_the_one_that_supports_it():
    one, both = sentence_support(
        [SOURCE] * 2, ["She won two Nobel Prizes.", "She won two Nobel Prizes. Zzz qqq."]
    )
    assert (one, both) == (pytest.approx(1), pytest.approx(0.5))


def test_other_forms_of_a_word_are_half_support():
    exact, inflected, other = word_support([SOURCE] * 3, ["prizes", "prize", "banana"])
    assert (exact, other) == (1, 0)
    # ^pr pri riz ize ze$ against ^pr pri riz ize zes es$: four in common
    assert inflected == pytest.approx(2 * 4 / 11)
