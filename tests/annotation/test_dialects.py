"""Servers that speak OpenAI's protocol in a dialect of their own: the lines of docs/providers.md work
at a stand-in for each.
"""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
import yaml
from helpers.annotation_desk import Desk, make_texts
from helpers.fakes.dialects import KEY, WIRES, run_dialect
from helpers.fakes.state import label_of

from atgen_ray.config.dialects import BUDGETED, DIALECTS, find_dialect
from atgen_ray.config.loading import parse_config
from atgen_ray.core import request_ids
from atgen_ray.core.errors import UserError
from atgen_ray.store.ledger import read_balance
from atgen_ray.store.tables import requests

PAGE = Path(__file__).parents[2] / "docs" / "providers.md"
PRICE = {"input": 1000.0, "output": 1000.0, "cached": 0.0, "written": 2000.0}
# What each server must get of the body, beside messages, model and limit.
SENT = {
    "OpenAI": {"reasoning_effort": "low"},
    "Azure OpenAI": {},
    "Azure OpenAI with an api-version": {"temperature": 0.0},
    "OpenRouter": {"temperature": 0.0, "reasoning": {"enabled": False}},
    "DeepSeek": {"temperature": 0.0, "thinking": {"type": "disabled"}},
    "Mistral": {"temperature": 0.0},
    "Gemini": {
        "temperature": 0.0,
        "extra_body": {"google": {"thinking_config": {"thinking_budget": 0}}},
    },
    "LiteLLM": {"reasoning_effort": "low"},
    "vLLM": {"temperature": 0.0, "chat_template_kwargs": {"enable_thinking": False}},
    "Ollama": {"temperature": 0.0, "reasoning_effort": "none"},
    "LM Studio": {"temperature": 0.0},
}
OURS = {"messages", "model", "max_tokens", "max_completion_tokens", "store", "metadata", "provider"}


def read_lines(title: str) -> dict[str, Any]:
    """The annotator that the page has under a heading."""
    found = re.search(rf"### {title}\n.*?```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found, title
    return dict(yaml.safe_load(found[1])["annotator"])


def configure(annotator: dict[str, Any], url: str) -> Any:
    """A run with the lines of the page, at `url` in place of the server's host."""
    dialect = find_dialect(annotator.get("dialect", "auto"), annotator.get("base_url"))
    name = next(name for name, each in DIALECTS.items() if each is dialect)
    place = str(annotator.get("base_url") or dialect.url)
    annotator = annotator | {
        "dialect": name,
        "base_url": url + urlsplit(place).path,
        "price": PRICE,
        "timeout_seconds": 2.0,
    }
    return parse_config(
        {"data": {"pool": "p.jsonl"}, "model": {"id": "m"}, "name": "paid", "annotator": annotator}
    )


@pytest.mark.parametrize("title", WIRES)
def test_the_lines_of_the_page_label_at_each_server(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-another-account")
    monkeypatch.setattr(request_ids, "_origin", ["page-4711"])  # as in a controller
    lines = read_lines(title)
    dialect = find_dialect(lines.get("dialect", "auto"), lines.get("base_url"))
    monkeypatch.setenv(dialect.variable, KEY)
    with run_dialect(title) as server:
        desk = Desk(None, tmp_path, configure(lines, server.url), make_texts(3))  # type: ignore[arg-type]
        labels, dead = desk.annotate()
    assert not server.refused
    assert not dead
    assert {i: label.text for i, label in labels.items()} == {
        i: label_of(text) for i, text in desk.texts.items()
    }
    for body in server.bodies:
        assert {name: value for name, value in body.items() if name not in OURS} == SENT[title]
        assert ("store" in body) == (title == "OpenAI")
    for headers in server.headers:
        assert "openai-organization" not in headers
    # Each call can be traced to the HTTP request that started the run, and to the journal.
    traced = {headers["x-client-request-id"].partition(".") for headers in server.headers}
    with desk.journal.database.reading() as connection:
        asked = connection.execute(sa.select(requests.c.custom_id)).scalars()
        assert traced == {("page-4711", ".", each) for each in asked}
    # Tokens out of the cache and into it have prices of their own.
    cents = {"OpenAI": 4 - 2 + 1 + 2, "DeepSeek": 4 - 3 + 2}.get(title, 6)
    assert read_balance(desk.journal, "paid").paid == pytest.approx(3 * cents / 1000)


def test_a_schema_is_sent_as_the_server_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", KEY)
    lines = read_lines("DeepSeek") | {"output_schema": {"type": "string"}, "repair": False}
    with run_dialect("DeepSeek") as server:
        Desk(None, tmp_path, configure(lines, server.url), make_texts(1)).annotate()  # type: ignore[arg-type]
    assert [body["response_format"] for body in server.bodies] == [{"type": "json_object"}]
    assert not server.refused


def test_a_key_that_is_missing_is_named_by_its_own_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MISTRAL_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "of-somebody-else")
    config = parse_config(
        {"data": {"pool": "p"}, "model": {"id": "m"}, "name": "paid"}
        | {"annotator": read_lines("Mistral")}
    )
    with pytest.raises(UserError, match="MISTRAL_API_KEY is not set"):
        Desk(None, tmp_path, config, make_texts(1)).annotate()  # type: ignore[arg-type]


def test_the_table_of_the_page_is_that_of_the_code() -> None:
    table = PAGE.read_text().partition("| --- |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))
    schemas = {"json_schema": "enforced", "json_object": "any JSON"}
    expected = {
        name: " | ".join(
            [
                f"`{each.url}`" if each.url else "none",
                f"`{each.variable}`",
                each.limit if each.limit == "by model" else f"`{each.limit}`",
                schemas[each.schema],
                "effort or budget" if each.thinking in BUDGETED else "effort",
            ]
        )
        for name, each in DIALECTS.items()
    }
    assert rows == expected
