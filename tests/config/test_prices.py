"""Prices: which entry a model has, what its tokens cost, how the table is renewed, and what is said
of old prices and models that end.
"""

import json
import os
import re
import threading
from datetime import date
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import call

from atgen_ray.annotation.disclosure import (
    find_ended_models,
    find_remote_notes,
    find_remote_warnings,
)
from atgen_ray.config import RemoteAnnotatorConfig, RunConfig
from atgen_ray.config.loading import parse_config
from atgen_ray.config.price_update import convert_prices, write_prices
from atgen_ray.config.prices import (
    LongPrice,
    Price,
    find_price,
    parse_prices,
    read_prices,
    read_shipped,
)

DAY = date(2026, 11, 29)
# As LiteLLM publishes it: dollars for one token.
PUBLISHED: dict[str, Any] = {
    "sample_spec": {"mode": "one of: chat, ...", "input_cost_per_token": 0.0},
    "gpt-9": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 2e-06,
        "output_cost_per_token": 1e-05,
        "cache_read_input_token_cost": 2e-07,
        "cache_creation_input_token_cost": 2.5e-06,
        "input_cost_per_token_batches": 1e-06,
        "output_cost_per_token_batches": 5e-06,
        "input_cost_per_token_above_272k_tokens": 4e-06,
        "output_cost_per_token_above_272k_tokens": 1.5e-05,
        "supported_endpoints": ["/v1/chat/completions", "/v1/batch"],
    },
    "gpt-9-2027-05-13": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 4e-06,
        "output_cost_per_token": 2e-05,
        "deprecation_date": "2028-01-14",
        "successor_model": "gpt-10",
    },
    "gpt-9-pro": {  # speaks another protocol
        "litellm_provider": "openai",
        "mode": "responses",
        "input_cost_per_token": 2e-06,
        "output_cost_per_token": 1e-05,
    },
    "mistral/mistral-new": {
        "litellm_provider": "mistral",
        "mode": "chat",
        "input_cost_per_token": 1e-07,
        "output_cost_per_token": 3e-07,
    },
    "whisper": {"litellm_provider": "openai", "mode": "audio_transcription"},
    "broken": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": "free"},
}


@pytest.fixture(autouse=True)
def own_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's own table would be; there is none."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("ATGEN_PRICES", raising=False)
    return tmp_path / "atgen-ray" / "prices.yaml"


def configure(**annotator: Any) -> RunConfig:
    return parse_config(
        {"data": {"pool": "p.jsonl"}, "model": {"id": "m"}, "name": "priced"}
        | {"annotator": {"type": "openai", "guidelines": "Sort."} | annotator}
    )


def ask(**annotator: Any) -> RemoteAnnotatorConfig:
    found = configure(**annotator).annotator
    assert isinstance(found, RemoteAnnotatorConfig)
    return found


def test_the_shipped_table_names_source_and_day_of_every_section() -> None:
    for section in read_shipped().values():
        assert section.source.startswith("https://")
        assert date.fromisoformat(section.date) >= DAY
    assert read_shipped()["openai"].models["gpt-4.1-mini"].retires == "2027-01-14"


def test_exact_names_come_before_families() -> None:
    assert find_price(ask(model="gpt-4o"), "annotator").input == 2.5
    assert find_price(ask(model="gpt-4o-2024-05-13"), "annotator").input == 5.0
    family = find_price(ask(model="gpt-5.4-mini-2029-01-01"), "annotator")
    assert family.input == read_shipped()["openai"].models["gpt-5.4-mini"].input
    tuned = find_price(ask(model="ft:gpt-4.1-mini-2025-04-14:org:name:id"), "annotator")
    assert tuned.input == 0.8
    with pytest.raises(Exception, match=r"whose price is unknown.*did you mean"):
        ask(model="gpt-4.1-mino")


def test_prices_hold_at_the_address_of_their_provider_alone() -> None:
    assert find_price(ask(model="mistral-small-latest", dialect="mistral"), "annotator").input
    address = "https://api.deepseek.com/v1"
    assert find_price(ask(model="deepseek-flash", base_url=address), "annotator").output == 1.2
    with pytest.raises(Exception, match=r"unknown.* at this base_url"):
        ask(model="gpt-4.1-mini", base_url="http://localhost:8000/v1")


def test_cached_written_and_long_prompts_have_their_own_prices() -> None:
    price = Price(
        2.0, 10.0, "", cached=0.2, written=2.5, long=LongPrice(above=1000, input=4.0, output=20.0)
    )
    assert price.nano(900, 10) == 1_900_000
    assert price.nano(900, 10, cached=500, written=100) == 600_000 + 100_000 + 250_000 + 100_000
    assert price.nano(2000, 10) == 8_000_000 + 200_000
    assert price.nano(2000, 0, cached=2000) == 800_000
    # The worst case is that a prompt enters the cache, unless it is too short for any.
    assert price.bound(900, 10) == 900 * 2500 + 100_000
    assert price.bound(100, 10) == 100 * 2000 + 100_000
    for cached in (0, 300, 900):
        for written in (0, 900 - cached):
            assert price.nano(900, 10, cached, written) <= price.bound(900, 10)
    assert price.scaled(0.5).nano(2000, 0, cached=2000) == 400_000


def test_batch_mode_saves_what_the_table_says() -> None:
    whole = find_price(ask(model="gpt-5.6-luna"), "annotator")
    half = find_price(ask(model="gpt-5.6-luna"), "annotator", "batch")
    assert (half.input, half.cached) == (whole.input / 2, (whole.cached or 0) / 2)


def test_the_format_of_litellm_becomes_a_table() -> None:
    table = convert_prices(PUBLISHED, "here", DAY)
    assert list(table) == ["openai", "mistral"]
    assert list(table["openai"].models) == ["gpt-9", "gpt-9-2027-05-13"]
    new = table["openai"].models["gpt-9"]
    assert (new.input, new.output, new.cached, new.written) == (2.0, 10.0, 0.2, 2.5)
    assert new.batch_discount == 0.5
    assert new.long == LongPrice(above=272_000, input=4.0, output=15.0)
    old = table["openai"].models["gpt-9-2027-05-13"]
    assert (old.retires, old.successor, old.batch_discount) == ("2028-01-14", "gpt-10", None)
    assert table["mistral"].models["mistral-new"].output == 0.3
    assert parse_prices(write_prices(table), "the table") == table


def test_update_writes_a_table_that_is_used_from_then_on(
    own_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "published.json"
    source.write_text(json.dumps(PUBLISHED))
    done = call("prices", "update", "--from", str(source))
    assert done.status == 0, done.err
    assert own_table.exists()
    assert find_price(ask(model="gpt-9"), "annotator").input == 2.0
    assert "claude-haiku-5-5" in read_prices()["anthropic"].models  # the shipped section
    shown = json.loads(call("prices", "list", "--provider", "openai", "--json").out)
    assert shown["openai"]["source"] == str(source)
    # An older table is not used.
    os.utime(source, (0, 0))
    call("prices", "update", "--from", str(source))
    assert read_prices()["openai"] == read_shipped()["openai"]
    # A file that everybody sees, as on a cluster.
    monkeypatch.setenv("ATGEN_PRICES", str(tmp_path / "shared.yaml"))
    os.utime(source)
    assert call("prices", "update", "--from", str(source)).status == 0
    assert read_prices()["mistral"].models.keys() == {"mistral-new"}


def test_update_takes_a_url(own_table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "published.json").write_text(json.dumps(PUBLISHED))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        gone = call("prices", "update", "--from", f"{url}/gone.json")
        done = call("prices", "update", "--from", f"{url}/published.json")
        server.shutdown()
        thread.join()
    assert gone.status == 2
    assert "which cannot be read: HTTP Error 404" in gone.err
    assert done.status == 0, done.err
    assert read_prices()["openai"].source == f"{url}/published.json"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "which cannot be read"),
        ("<html>", "which is no JSON"),
        ("[]", "which holds no price of openai"),
        ('{"a": {"litellm_provider": "openai"}}', "which holds no price of openai"),
    ],
)
def test_a_source_that_is_no_table_is_refused(
    content: str | None, line: str, own_table: Path, tmp_path: Path
) -> None:
    source = tmp_path / "published.json"
    if content is not None:
        source.write_text(content)
    done = call("prices", "update", "--from", str(source))
    assert done.status == 2
    assert line in done.err
    assert not own_table.exists()


def test_a_table_that_is_broken_or_gone_is_one_line(
    own_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_table.parent.mkdir()
    own_table.write_text("openai: {source: x, date: yesterday, models: {}}")
    assert "is no price table: openai.date is 'yesterday'" in call("prices", "list").err
    monkeypatch.setenv("ATGEN_PRICES", str(own_table.with_name("gone.yaml")))
    assert "ATGEN_PRICES is" in call("prices", "list").err
    monkeypatch.delenv("ATGEN_PRICES")
    own_table.unlink()
    done = call("prices", "list", "--provider", "opnai")
    assert done.status == 2
    assert "did you mean 'openai'?" in done.err
    assert "gpt-4.1-mini" in call("prices", "list").out


def test_old_prices_and_models_that_end_are_told() -> None:
    config = configure(model="gpt-4.1-mini")
    (line,) = find_remote_warnings(config, DAY)
    assert line.startswith("annotator.model is 'gpt-4.1-mini', which ends on 2027-01-14")
    assert "successor" in line
    assert not find_remote_warnings(configure(model="gpt-5.6-luna"), DAY)
    (line,) = find_remote_warnings(configure(model="gpt-5.6-luna"), date(2027, 3, 1))
    assert "more than 60 days ago: `atgen-ray prices update` renews it" in line
    own = {"input": 1.0, "output": 1.0}
    assert not find_remote_warnings(configure(model="gpt-5.6-luna", price=own), date(2027, 3, 1))


def test_a_model_that_ended_is_refused_unless_its_price_is_given() -> None:
    ended = configure(model="o4-mini")
    (line,) = find_ended_models(ended, DAY)
    assert line.startswith("annotator.model is 'o4-mini', which ended on 2026-10-23")
    assert not find_ended_models(ended, date(2026, 10, 22))
    assert not find_ended_models(
        configure(model="o4-mini", price={"input": 1.0, "output": 1.0}), DAY
    )


def test_the_plan_tells_where_text_goes_and_what_stays_there() -> None:
    first, stored, temperature, room = find_remote_notes(configure(model="gpt-5-mini"))
    assert first == (
        "annotator: pool text goes to https://api.openai.com/v1, with the key of OPENAI_API_KEY"
    )
    assert "keeps every prompt and answer (store: true)" in stored
    assert temperature.startswith("annotator.temperature is 0, which gpt-5-mini refuses")
    assert room.startswith("annotator.max_output_tokens is 512, within which gpt-5-mini thinks")
    (line,) = find_remote_notes(
        configure(model="m", base_url="http://here/v1", price={"input": 0, "output": 0})
    )
    assert "http://here/v1" in line
    assert len(find_remote_notes(configure(model="gpt-4.1-mini", recovery="none"))) == 1


def test_the_plan_tells_what_the_cache_saves() -> None:
    shared = {"guidelines": "Sort it well. " * 1000}
    line = find_remote_notes(configure(model="gpt-4.1-mini", recovery="none", **shared))[-1]
    assert re.fullmatch(
        r"annotator: about 3,\d{3} tokens of each prompt are the same in all; out of the provider's "
        r"cache they cost 0\.3\d dollars in 1,000 requests, else 1\.4\d",
        line,
    )
    anthropic = {"type": "anthropic", "model": "claude-haiku-4-5"} | shared
    assert "they cost 0.3" in find_remote_notes(configure(**anthropic))[-1]
    assert len(find_remote_notes(configure(**anthropic, prompt_cache=False))) == 1
