"""Labels as solved examples for the untuned model."""

from atgen_ray.config import ModelConfig, PromptConfig, Shot
from atgen_ray.models.few_shot import show_solved
from atgen_ray.models.loading import find_context, load_tokenizer
from atgen_ray.models.prompts import PromptBuilder

SOLVED = [
    Shot(input=f"Q: {{{{ one }}}} {'word ' * 20 * index}", output=f"answer {index}")
    for index in range(3)
]


def test_labels_stand_in_the_prompt_as_they_are(tiny_model: str) -> None:
    model = ModelConfig(id=tiny_model, max_prompt_tokens=80, max_new_tokens=8)
    own = PromptConfig(
        system="Be brief.", template="Q: {{ input }}", few_shot=[Shot(input="a", output="b")]
    )
    roomy, prompt = show_solved(model, own, SOLVED)
    text = PromptBuilder(load_tokenizer(model), prompt, roomy.max_prompt_tokens).render("Q: new")
    places = [
        text.index(part) for part in ("Be brief.", "answer 0", "answer 1", "answer 2", "Q: new")
    ]
    assert places == sorted(places)
    assert text.count("Q: {{ one }}") == 3
    assert "Q: Q:" not in text
    assert roomy.max_prompt_tokens == 320


def test_what_does_not_fit_into_the_context_is_left_out(tiny_model: str) -> None:
    model = ModelConfig(id=tiny_model, max_prompt_tokens=300, max_new_tokens=8)
    assert find_context(model) == 1024
    solved = [*SOLVED, Shot(input="word " * 2000, output="too long")]
    roomy, prompt = show_solved(model, PromptConfig(), solved)
    assert [shot.output for shot in prompt.few_shot] == ["answer 0", "answer 1", "answer 2"]
    assert roomy.max_prompt_tokens == 1016
