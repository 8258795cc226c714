"""Lines of a batch's file: questions to the service's own models."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from atgen_ray.core.errors import UserError, nearest
from atgen_ray.serving.schemas.chat import ChatBody
from atgen_ray.serving.schemas.openai import CompletionBody, EmbeddingBody
from atgen_ray.serving.tuning_rows import parse_line

ENDPOINTS: dict[str, type[ChatBody | CompletionBody | EmbeddingBody]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/embeddings": EmbeddingBody,
}
MOST_QUESTIONS = 50_000
KEYS = ("custom_id", "method", "url", "body")
SHOWN = 80


@dataclass(frozen=True)
class Question:
    """A line: `body` is validated when it is asked, so that one wrong line is one error."""

    custom_id: str
    url: str
    body: dict[str, Any]

    def parse(self) -> ChatBody | CompletionBody | EmbeddingBody:
        """Return the body of the request.

        Raises:
            UserError: it is wrong, or wants a stream.
        """
        try:
            body = ENDPOINTS[self.url].model_validate(self.body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"body{'.' if where else ''}{where}: {first['msg']}") from None
        if getattr(body, "stream", False):
            raise UserError("body.stream is true, expected false: a batch has no reader")
        return body


def read_questions(lines: Iterable[bytes]) -> Iterator[Question]:
    """Yield the questions of a file; empty lines do not count.

    Raises:
        UserError: a line is no question, or has the custom_id of another; says which line.
    """
    seen = set[str]()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        question = _read(parse_line(line, number), number)
        if question.custom_id in seen:
            raise UserError(
                f"line {number} has the custom_id {question.custom_id[:SHOWN]!r} once more, "
                f"expected another on each line"
            )
        seen.add(question.custom_id)
        yield question
        if len(seen) > MOST_QUESTIONS:
            raise UserError(f"the file has more than {MOST_QUESTIONS:,} lines")


def count_questions(lines: Iterable[bytes]) -> int:
    """Return how many questions a file has, at least one; raises UserError."""
    count = sum(1 for _ in read_questions(lines))
    if not count:
        raise UserError("the file has no lines, expected a JSON object on each")
    return count


def _read(row: dict[str, Any], number: int) -> Question:
    if unknown := [key for key in row if key not in KEYS]:
        raise UserError(
            f"line {number} has the key {unknown[0][:SHOWN]!r}{nearest(unknown[0], KEYS)}"
        )
    custom_id, url, body = row.get("custom_id"), row.get("url"), row.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= 200:
        raise UserError(f"line {number} has no custom_id, expected a text of 1 to 200 characters")
    if row.get("method") != "POST":
        raise UserError(
            f"line {number} has the method {str(row.get('method'))[:20]!r}, expected POST"
        )
    if url not in ENDPOINTS:
        raise UserError(
            f"line {number} has the url {str(url)[:SHOWN]!r}{nearest(str(url), ENDPOINTS)}"
        )
    if not isinstance(body, dict):
        raise UserError(f"line {number} has no body, expected an object")
    return Question(custom_id, url, body)
