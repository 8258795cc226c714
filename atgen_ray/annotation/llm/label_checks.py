"""Checks that decide whether an answer is a label: pure functions that return the reason why it is
not.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from atgen_ray.config import ChecksConfig, LLMAnnotatorConfig
from atgen_ray.config.plugins import CHECKS
from atgen_ray.core.json_schema import open_validator
from atgen_ray.core.strict_json import encode_json

REFUSALS = re.compile(
    r"^\W*(i['’]?m sorry|i am sorry|sorry,|i apologi[sz]e|unfortunately,? i|i can(?:no|['’])t|i "
    r"am (?:not able|unable)"
    r"|i['’]m (?:not able|unable)|as an ai\b|i won['’]t|i will not)[^.]{0,60}?"
    r"(can(?:no|['’])?t|unable|not able|won['’]t|help|assist|comply|provide|answer|fulfil)",
    re.IGNORECASE,
)
# Text that gives the annotating model instructions (prompt injection).
COMMANDS = re.compile(
    r"(?:ignore|disregard|forget|override)\W+(?:\w+\W+){0,4}?(?:above|previous|prior|earlier|instructions?|prompts?|rules|task)"
    r"|(?:answer|respond|reply|output|print|say|write|return)\W+(?:only|with|exactly|nothing but)\b"
    r"|you are now\b|new (?:system )?(?:instructions?|prompt|task)\b|system prompt"
    r"|\bsystem\s*:|<\|(?:im_start|system)\|>"
    r"|begin example|end example",
    re.IGNORECASE,
)
Check = Callable[[str, str], str | None]


def read_label(answer: str, config: LLMAnnotatorConfig) -> tuple[str, str | None]:
    """Return the label in an answer without its reasoning, and the reason why it has none.

    With an output schema the answer is JSON; the label is its `output_field`, or the whole value in
    canonical form.
    """
    if config.output_schema is None:
        return answer, None
    import jsonschema

    text = re.sub(r"^```(?:json)?\s*|\s*```$", "", answer.strip())
    try:
        value: Any = json.loads(text)
        open_validator(config.output_schema).validate(value)
        if config.output_field is not None:
            value = value[config.output_field]
    except ValueError:
        return answer, "it is not JSON"
    except jsonschema.ValidationError as error:
        return answer, f"it does not follow the schema: {error.message[:200]}"
    except (KeyError, TypeError):
        return answer, f"it has no key '{config.output_field}'"
    return value if isinstance(value, str) else encode_json(value), None


def find_fault(text: str, label: str, finish: str, checks: ChecksConfig) -> str | None:
    """Return why `label` is no label of the example `text`, or None.

    Args:
        finish: why the model stopped: `stop`, `length`, `refusal` or `filter`.
    """
    if finish in ("refusal", "filter"):
        return f"the provider ended it ({finish})"
    if finish == "length":
        return "it was cut off at annotator.max_output_tokens"
    if not label.strip():
        return "it is empty"
    if len(label) < checks.min_chars:
        return f"it has {len(label)} characters, expected at least {checks.min_chars}"
    if checks.max_chars is not None and len(label) > checks.max_chars:
        return f"it has {len(label)} characters, expected at most {checks.max_chars}"
    if checks.refusals and REFUSALS.match(label):
        return "it is a refusal"
    if checks.regex is not None and not re.fullmatch(checks.regex, label, re.DOTALL):
        return f"it does not match {checks.regex!r}"
    return find_custom(checks.custom)(text, label) if checks.custom else None


def find_custom(name: str) -> Check:
    """Return the check that an installed package declares under `name` (entry-point group
    `atgen_ray.checks`).

    Raises:
        UserError: the check cannot be imported.
    """
    return CHECKS[name]


def looks_like_injection(text: str) -> bool:
    """Return whether an example gives instructions to the annotating model; such an example is
    never a worked example.
    """
    return COMMANDS.search(text) is not None


def follows_injection(text: str, label: str) -> bool:
    """Return whether the label repeats what a command within the example told the model to say."""
    said = " ".join(label.split()).strip(" .\"'!").casefold()
    sentences = re.split(r"(?<=[.!?\n])\s+|\n", text)
    commanded = [index for index, sentence in enumerate(sentences) if COMMANDS.search(sentence)]
    near = {index + step for index in commanded for step in (0, 1)}
    return bool(said) and any(
        said in " ".join(sentences[i].split()).casefold() for i in near if i < len(sentences)
    )
