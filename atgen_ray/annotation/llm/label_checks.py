"""Checks that decide whether an answer is a label: pure functions that return the reason why it is
not.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from atgen_ray.annotation.llm.prompts import LABEL_SCHEMA, choose_schema
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
MATCH_SECONDS = 1.0  # of a regular expression on one label
Check = Callable[[str, str], str | None]


def read_label(answer: str, config: LLMAnnotatorConfig) -> tuple[str, str | None]:
    """Return the label in an answer without its reasoning, and the reason why it has none.

    With an output schema the answer is JSON; the label is its `output_field`, or the whole value in
    canonical form. A server may ignore LABEL_SCHEMA, which no user asked for: an answer of another
    form is the label then.
    """
    schema = choose_schema(config)
    if schema is None:
        return answer, None
    import jsonschema

    text = re.sub(r"^```(?:json)?\s*|\s*```$", "", answer.strip())
    try:
        value: Any = json.loads(text)
        open_validator(schema).validate(value)
        if schema is LABEL_SCHEMA:
            return value["label"], None
        if config.output_field is not None:
            value = value[config.output_field]
    except ValueError:
        return answer, None if schema is LABEL_SCHEMA else "it is not JSON"
    except jsonschema.ValidationError as error:
        if schema is LABEL_SCHEMA:
            return answer, None
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
    if checks.regex is not None and (fault := _match(checks.regex, label)):
        return fault
    return find_custom(checks.custom)(text, label) if checks.custom else None


def _match(pattern: str, label: str) -> str | None:
    """Return why the whole label does not match; a pattern that is looked for too long does not."""
    import regex

    try:
        if regex.fullmatch(pattern, label, regex.DOTALL, timeout=MATCH_SECONDS):
            return None
    except TimeoutError:
        return f"checks.regex {pattern!r} takes more than {MATCH_SECONDS:g} s on it"
    return f"it does not match {pattern!r}"


def find_custom(name: str) -> Check:
    """Return the check that an installed package declares under `name` (entry-point group
    `atgen_ray.checks`).

    Raises:
        UserError: the check cannot be imported.
    """
    return CHECKS[name]
