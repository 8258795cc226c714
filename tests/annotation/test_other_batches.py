"""Batch jobs of Mistral, Gemini and Azure: the faults of other providers come to the same, without a line in
the dispatcher for them.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from helpers.annotation_desk import QUICK, Desk, configure, make_texts
from helpers.command_line import SMALLEST
from helpers.fakes.provider import FakeProvider
from helpers.faults import FAULTS, Fault, try_fault

from atgen_ray.annotation.llm.prompts import PromptWriter
from atgen_ray.annotation.providers.base import RequestAttempt, Shard
from atgen_ray.annotation.registry import build_provider
from atgen_ray.annotation.request import AnnotationRequest
from atgen_ray.config.loading import parse_config
from atgen_ray.config.prices import find_price
from atgen_ray.core.errors import RunPaused
from atgen_ray.store.ledger import read_balance
from atgen_ray.store.tables import shards

KINDS = ("mistral", "gemini")
AZURE = ("v1", "api-version")
# A job that fails has words and no code, so that none of its rows is asked again. Gemini's jobs have
# no files, and keep no answer of a job that did not succeed.
TRIED = [
    (kind, fault)
    for kind in (*KINDS, "azure")
    for fault in FAULTS
    if "batch" in fault.modes
    and "openai" in fault.kinds
    and (kind == "azure" or fault.settings.get("ending") != "failed")
    and not (kind == "gemini" and ("upload" in fault.name or "ending" in fault.settings))
]


@pytest.mark.parametrize(
    ("kind", "fault"), TRIED, ids=[f"{kind}: {fault.name}" for kind, fault in TRIED]
)
def test_nothing_is_lost_paid_twice_or_swapped(
    kind: str, fault: Fault, provider: FakeProvider, tmp_path: Path
) -> None:
    account = try_fault(fault, provider, tmp_path, kind, "batch")
    assert (account.lost, account.paid_twice, account.mislabelled, account.missing) == (
        0,
        0,
        0,
        0,
    ), account
    assert account.doubt == 0, account
    assert account.dead == fault.dead, account
    assert account.pauses == fault.paused, account
    assert account.dollars_off >= 0, account
    assert (account.dollars_off > 0) == fault.untold, account


@pytest.mark.parametrize("mode", ["sync", "batch"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_example_is_labelled_and_billed_once(
    kind: str, mode: str, provider: FakeProvider, tmp_path: Path
) -> None:
    desk = Desk(provider, tmp_path, configure(provider, kind, mode), make_texts(20))
    labels, dead = desk.annotate()
    assert len(labels) == len(provider.bills()) == 20
    assert not dead
    assert desk.annotate()[0] == labels  # as after a kill just before the labels were recorded
    assert len(provider.bills()) == 20
    jobs = {
        "mistral": "POST /v1/batch/jobs",
        "gemini": "POST /v1beta/models/fake:batchGenerateContent",
    }
    assert (jobs[kind] in provider.calls()) == (mode == "batch")


@pytest.mark.parametrize("form", AZURE)
def test_azure_labels_by_batch_jobs_with_and_without_an_api_version(
    form: str, provider: FakeProvider, tmp_path: Path
) -> None:
    old: dict[str, Any] = {
        "base_url": f"{provider.url}/openai/deployments/labels",
        "api_version": "2024-10-21",
    }
    config = configure(provider, "azure", "batch", **(old if form == "api-version" else {}))
    desk = Desk(provider, tmp_path, config, make_texts(20))
    labels, dead = desk.annotate()
    assert len(labels) == len(provider.bills()) == 20
    assert not dead
    root = "/openai" if form == "api-version" else "/openai/v1"
    calls = provider.calls()
    assert calls[f"POST {root}/files"] == calls[f"POST {root}/batches"] == 1


@pytest.mark.parametrize("kind", [*KINDS, "azure"])
def test_a_job_that_failed_says_why(kind: str, provider: FakeProvider, tmp_path: Path) -> None:
    provider.set(ending="failed", failure=["", "the file is broken"])
    config = configure(provider, kind, "batch", repair=False)
    _, dead = Desk(provider, tmp_path, config, make_texts(3)).annotate()
    assert len(dead) == 3
    assert all("the file is broken" in letter.reason for letter in dead.values())


def test_a_job_that_never_ends_is_cancelled_and_then_paused(
    provider: FakeProvider, tmp_path: Path
) -> None:
    provider.set(stuck="CANCELLATION_REQUESTED", polls=99)
    patience = replace(QUICK, batch=0.1, cancelling=0.2)
    config = configure(provider, "mistral", "batch")
    desk = Desk(provider, tmp_path, config, make_texts(3), patience)
    with pytest.raises(RunPaused, match="CANCELLATION_REQUESTED"):
        desk.annotate()
    assert read_balance(desk.journal, "paid").held > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_is_found_on_the_second_page(
    kind: str, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"atgen_ray.annotation.providers.{kind}.PAGE", 2)
    config = configure(provider, kind, "batch")
    client = build_provider(config.annotator, "paid", "annotator")  # type: ignore[arg-type]
    prompt = PromptWriter(config.annotator, config.prompt).write("text")  # type: ignore[arg-type]
    shards = [
        Shard(
            f"shard-{n}", (RequestAttempt(f"c{n}", AnnotationRequest("e", 0, 0, prompt), 0),), 0.0
        )
        for n in range(3)
    ]
    made = [client.create(shard) for shard in shards]
    assert client.find(shards[0], set()) == made[0]
    assert client.find(Shard("none", shards[0].attempts, 0.0), set()) is None


@pytest.mark.parametrize("kind", ["openai", "azure", "anthropic", *KINDS])
def test_what_a_provider_keeps_of_a_batch_is_deleted_there(
    kind: str, provider: FakeProvider, tmp_path: Path
) -> None:
    desk = Desk(provider, tmp_path, configure(provider, kind, "batch"), make_texts(3))
    desk.annotate()
    with desk.journal.database.reading() as connection:
        (remote,) = connection.execute(sa.select(shards.c.remote)).scalars()
    client = build_provider(desk.config.annotator, "paid", "annotator")  # type: ignore[arg-type]
    found = client.forget(remote, rehearse=True)
    assert len(found) == {"openai": 2, "azure": 3, "mistral": 2}.get(kind, 1)
    assert client.forget(remote, rehearse=True) == found  # nothing is gone yet
    assert client.forget(remote) == found
    assert client.forget(remote) == []


def test_batch_mode_is_half_price() -> None:
    tree = SMALLEST | {
        "name": "priced",
        "annotator": {"type": "mistral", "model": "mistral-small-latest", "guidelines": "Sort."},
    }
    annotator = parse_config(tree).annotator
    sync, batch = (find_price(annotator, "annotator", mode) for mode in ("sync", "batch"))  # type: ignore[arg-type]
    assert (sync.input, batch.input) == (0.15, 0.075)


def test_gemini_is_told_how_much_to_think_and_in_which_schema(provider: FakeProvider) -> None:
    def write(**settings: Any) -> dict[str, object]:
        config = configure(provider, "gemini", "batch", **settings)
        client = build_provider(config.annotator, "paid", "annotator")  # type: ignore[arg-type]
        prompt = PromptWriter(config.annotator, config.prompt).write("text")  # type: ignore[arg-type]
        body = client.encode(AnnotationRequest("e", 0, 0, prompt))  # type: ignore[attr-defined]
        return dict(body["generationConfig"])

    assert write(thinking_tokens=0)["thinkingConfig"] == {"thinkingBudget": 0}
    assert write(reasoning_effort="none")["thinkingConfig"] == {"thinkingBudget": 0}
    assert write(reasoning_effort="low")["thinkingConfig"] == {"thinkingLevel": "low"}
    schema = {"type": "string"}
    assert write(output_schema=schema)["responseJsonSchema"] == schema
    assert write()["temperature"] == 0
    assert "temperature" not in write(model="gemini-3.8-flash")


def test_an_answer_that_gemini_blocks_is_paid_and_no_label(provider: FakeProvider) -> None:
    config = configure(provider, "gemini", "batch")
    client = build_provider(config.annotator, "paid", "annotator")  # type: ignore[arg-type]
    usage = {"promptTokenCount": 5, "cachedContentTokenCount": 2}
    blocked = client.read({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": usage})
    assert (blocked.finish, blocked.prompt_tokens, blocked.cached_tokens) == ("filter", 5, 2)
    with pytest.raises(ValueError, match="IndexError"):
        client.read({"candidates": []})
