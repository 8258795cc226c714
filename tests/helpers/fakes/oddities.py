"""What providers do besides their documentation, as public bug reports have it."""

import json
from typing import Any


def bend_usage(settings: dict[str, Any], prompt: int, output: int, names: tuple[str, str]) -> Any:
    """The usage of an answer of so many tokens, under a wire's own names of them."""
    usage: dict[str, Any] = {names[0]: prompt, names[1]: output}
    if names[1] == "completion_tokens":
        usage["total_tokens"] = prompt + output
    match settings["usage"]:
        case "null":
            return None
        case "null-output":
            usage[names[1]] = None
            usage.pop("total_tokens", None)
        case "thought-outside":
            usage[names[1]] = output - settings["thought"]
    return usage


def drop_missing(settings: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """The answer, without its usage where it has none."""
    if settings["usage"] == "missing":
        del answer["usage"]
    return answer


def cut_lines(settings: dict[str, Any], text: str) -> str:
    """A result file as it can be read now."""
    if settings["late_lines"] <= 0:
        return text
    settings["late_lines"] -= 1
    lines = text.splitlines(keepends=True)
    return "".join(lines[: len(lines) // 2])


def spoil_row(settings: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """A row of OpenAI's error file in the words of a gateway."""
    if settings["row_body"] is not None:
        row |= {"error": None}
        row["response"] = {"status_code": 200, "request_id": "r", "body": settings["row_body"]}
    elif settings["row_status"] is not None:
        body = {"error": json.loads(json.dumps(row["error"]))}
        row |= {"error": None}
        row["response"] = {"status_code": settings["row_status"], "request_id": "r", "body": body}
    return row
