"""What callers use, what it costs, and quotas. Everything real but Serve; nothing is trained."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import pytest
from helpers.command_line import call
from helpers.house import House, caller_of
from helpers.replica_server import serve_replica
from helpers.services import Service

from atgen_ray.config.usage import UsageConfig
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.metering import Meter
from atgen_ray.serving.schemas.chat import ChatBody
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.quotas import UsageBook
from atgen_ray.serving.security.rates import DAY, ModelBudget
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.housekeeping import remove_run
from atgen_ray.store.journal import Journal, open_journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tuning_jobs import TuningJobs
from atgen_ray.store.usage import enter_trained, sum_usage

ANN = Caller("t1", "program", "ann")
RUN = "ft-0123456789ab"
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()
PRICES = {
    "all": {"input": 1.0, "output": 2.0, "training": 4.0},
    "tiny": {"input": 10.0, "output": 20.0},
    "tiny:best": {"input": 100.0},
}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = open_journal(str(tmp_path), None)
    yield journal
    journal.close()


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("tiny", 10),
        ("tiny:sort-1", 10),
        ("tiny:best", 100),
        ("ft:tiny:x:0123456789ab", 10),
        ("other", 1),
    ],
)
def test_an_adapter_costs_what_its_base_costs(model: str, price: float) -> None:
    config = UsageConfig.model_validate({"prices": PRICES})
    assert config.find_price(model).input == price
    assert UsageConfig().find_price(model).input == 0


@pytest.mark.parametrize(
    ("quota", "period"),
    [
        ({"day_tokens": 150}, "day"),
        ({"month_tokens": 150}, "month"),
        ({"day_dollars": 0.002}, "day"),
        ({"month_dollars": 0.002}, "month"),
    ],
)
def test_a_quota_refuses_until_its_period_is_over(
    journal: Journal, quota: dict[str, Any], period: str
) -> None:
    now = NOON
    config = UsageConfig.model_validate({"prices": PRICES, "quotas": {"ann": quota}})
    books = [UsageBook(journal.database, config, lambda: now) for _ in range(2)]
    books[0].add(ANN, "tiny", 99, 0)
    books[0].check(ANN)
    with pytest.raises(ApiError, match=r"about (60|0\.0015) more") as told:
        books[0].check(ANN, tokens=60, nano=1_500_000)
    assert (told.value.status, told.value.code) == (429, "insufficient_quota")
    books[0].add(ANN, "tiny", 0, 51)  # 99 for 10 dollars a million, and 51 for 20
    books[0].flush()
    for book in books:  # the other replica knows it from the database
        with pytest.raises(ApiError, match=f"'ann' has used .* this {period}, expected at most"):
            book.check(ANN)
        book.check(Caller("t2", "program", "ben"))
    now += DAY  # the first of December
    books[1].check(ANN)


def test_the_quota_of_all_is_not_for_admins(journal: Journal) -> None:
    config = UsageConfig.model_validate({"quota": {"day_tokens": 1}})
    book = UsageBook(journal.database, config)
    root = Caller("t", "admin", "root")
    for caller in (ANN, root):
        book.add(caller, "tiny", 5, 5)
    book.check(root)
    with pytest.raises(ApiError, match="expected at most 1 "):
        book.check(ANN)


def test_whole_answers_and_streams_are_counted_by_what_they_say(house: House) -> None:
    caller = caller_of(house, house.tokens.create(label="ann", scopes=["infer"]))
    budget = ModelBudget(house.journal.database)
    turns = [{"role": "user", "content": "x" * 400}]
    body = ChatBody.model_validate({"model": "tiny", "messages": turns})
    whole, stream, left = (Meter(budget, caller, body) for _ in range(3))
    used = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    whole.read({"usage": used})
    assert not stream.look(f"data: {json.dumps({'choices': [], 'usage': used})}", False)
    for meter in (whole, stream):
        meter.close()
    budget.flush()
    budget.flush()
    assert sum_usage(house.journal.database, "ann", 0) == (20, 0)
    left.close()  # its caller left before the first event
    budget.flush()
    assert sum_usage(house.journal.database, "ann", 0)[0] > 120


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.journal.close()


def train(journal: Journal, storage: Path, *rounds: int) -> None:
    """As a controller commits the training of each round."""
    lease = journal.acquire(RUN, ProcessIdentity("tests"), 20)
    for round in rounds:
        folder = RunFolder(str(storage), RUN)
        folder.write_json(f"rounds/{round:03}/training.json", {"tokens": 100 * round})
        journal.append(lease, "step", round, "training")
    lease.release()


def test_what_a_job_was_trained_on_is_counted_once_and_outlives_its_run(
    journal: Journal, tmp_path: Path
) -> None:
    journal.create_run(RUN, {}, "")
    tree = {"training": {"epochs": 3}}
    TuningJobs(journal).enter("ftjob-1", "ann", None, RUN, {"model": "tiny"}, tree, 4.0)
    enter_trained(journal.database, str(tmp_path))
    assert sum_usage(journal.database, "ann", 0) == (0, 0)
    train(journal, tmp_path, 1)
    for _ in range(2):
        enter_trained(journal.database, str(tmp_path))
        assert sum_usage(journal.database, "ann", 0) == (300, 1_200_000)
    train(journal, tmp_path, 1, 2)  # a controller that died after the commit repeats the step
    remove_run(journal, str(tmp_path), RUN)  # and nobody had looked since
    assert sum_usage(journal.database, "ann", 0) == (900, 3_600_000)
    shown = call("token", "usage", "--json", "--storage", str(tmp_path))
    (row,) = json.loads(shown.out)
    assert (row["by"], row["model"], row["trained_tokens"]) == ("ann", "tiny", 900)
    assert row["dollars"] == 0.0036
    assert "ann" in call("token", "usage", "--storage", str(tmp_path)).out
    nothing = call("token", "usage", "--month", "2020-02", "--storage", str(tmp_path))
    assert "nothing was used" in nothing.out
    wrong = call("token", "usage", "--month", "May", "--storage", str(tmp_path))
    assert (wrong.status, "expected YYYY-MM" in wrong.err) == (2, True)


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose model is never loaded."""
    quota = {"quotas": {"ann": {"day_tokens": 1_000}}, "prices": PRICES}
    folder = tmp_path_factory.mktemp("usage")
    with serve_replica(folder, "package://nowhere/model", usage=quota) as served:
        yield served


def test_work_is_refused_before_it_starts_and_everybody_sees_the_own_usage(
    replica: Service, tmp_path: Path
) -> None:
    database = open_journal(str(replica.storage), None).database
    made = {
        name: Tokens(database).create(label=name, scopes=["infer", "runs"])
        for name in ("ann", "ben")
    }
    ann = openai.OpenAI(base_url=f"{replica.url}/v1", api_key=made["ann"], max_retries=0)
    turns: list[Any] = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows, questions = tmp_path / "rows.jsonl", tmp_path / "questions.jsonl"
    rows.write_text(f"{json.dumps({'messages': turns})}\n" * 30)
    body = {"model": "tiny", "messages": turns[:1]}
    asked = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    questions.write_text(json.dumps(asked))
    training = ann.files.create(file=rows, purpose="fine-tune").id
    batch = ann.files.create(file=questions, purpose="batch").id
    with pytest.raises(openai.RateLimitError, match="would take about 1,980 more") as early:
        ann.fine_tuning.jobs.create(model="tiny", training_file=training)
    book = UsageBook(database, UsageConfig.model_validate({"prices": PRICES}))
    book.add(Caller("t", "program", "ann"), "tiny", 1_000, 0)
    book.flush()
    refused: list[Any] = [early.value]
    for ask in (
        lambda: ann.chat.completions.create(model="tiny", messages=turns[:1]),
        lambda: ann.fine_tuning.jobs.create(model="tiny", training_file=training),
        lambda: ann.batches.create(
            input_file_id=batch, endpoint="/v1/chat/completions", completion_window="24h"
        ),
    ):
        with pytest.raises(openai.RateLimitError, match="has used 1,000 tokens this day") as told:
            ask()
        refused.append(told.value)
    assert {(each.code, each.type) for each in refused} == {("insufficient_quota",) * 2}
    assert list(ann.fine_tuning.jobs.list()) == []
    usage = replica.client(made["ann"]).get("/v1/usage").json()
    assert usage["quota"]["day_tokens"] == 1_000
    assert [row["by"] for row in usage["data"]] == ["ann"]
    assert (usage["total"]["input_tokens"], usage["total"]["dollars"]) == (1_000, 0.01)
    assert replica.client(made["ben"]).get("/v1/usage").json()["data"] == []
    assert replica.client().get("/v1/usage").json()["data"] == usage["data"]  # an admin sees all
    wrong = replica.client().get("/v1/usage", params={"start": "2026-12-02", "end": "2026-12-01"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "start")
