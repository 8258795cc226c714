"""A promoted adapter: `<base>:<run>` answers with it at once, unless it is shown to be worse."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import call
from helpers.house import House
from helpers.services import bearer

from atgen_ray.config import ModelConfig
from atgen_ray.core.errors import UserError
from atgen_ray.engines.adapter_probe import Probe
from atgen_ray.runs.promotion import ShownWorseError, promote_round, take_promotion_back
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.replicas.adapter_directory import AdapterDirectory
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.promotions import enter_promotion, find_promoted, list_promotions
from atgen_ray.store.run_folder import RunFolder

# Scores of 20 examples in each round: round 2 is the best, round 3 is worse than it, and by round 4
# nothing is known. The shares differ by example, so that only pairs show it.
ROUNDS = {
    0: [0.1 + at / 100 for at in range(20)],
    1: [0.4 + at / 100 for at in range(20)],
    2: [0.6 + at / 100 for at in range(20)],
    3: [0.55 + at / 100 for at in range(20)],
}


def build(root: Path, run: str = "demo", metric: str = "chrf") -> Journal:
    """A run with scores and adapters of `ROUNDS`, and an adapter of round 4 without a score."""
    journal = Journal(f"sqlite:///{root}/atgen.db")
    journal.create_run(run, {"model": {"id": "maker/tiny", "revision": None}}, "")
    lease = journal.acquire(run, ProcessIdentity("us"), 60)
    folder = RunFolder(str(root), run)
    for round in range(5):
        if round:
            with folder.publish(f"rounds/{round:03d}/adapter") as output:
                (output / "adapter_config.json").write_text("{}")
                (output / "adapter_model.safetensors").write_bytes(b"weights %d" % round)
            journal.append(lease, "step", round, "training")
        if round in ROUNDS:
            score(folder, round, ROUNDS[round], metric)
            journal.append(lease, "step", round, "evaluation")
    lease.release()
    return journal


def score(folder: RunFolder, round: int, values: list[float], metric: str) -> None:
    rows = [
        {"id": f"e{at}", "split": "test", "scores": {"output_length": 1.0, metric: value}}
        for at, value in enumerate(values)
    ]
    folder.write_jsonl(f"rounds/{round:03d}/predictions.jsonl", rows)
    mean = sum(values) / len(values)
    found = {"mean": mean, "low": mean - 0.04, "high": mean + 0.04}
    length = {"mean": 1.0, "low": 1.0, "high": 1.0}
    folder.write_json(
        f"rounds/{round:03d}/metrics.json", {"test": {"output_length": length, metric: found}}
    )


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = build(tmp_path)
    yield journal
    journal.close()


def test_a_round_that_is_shown_to_be_worse_is_refused(journal: Journal, tmp_path: Path) -> None:
    root = str(tmp_path)
    said = promote_round(journal, root, "demo", 2)
    assert said == (
        "run 'demo' answers with round 2 now: chrf (test) +0.5000 [+0.5000, +0.5000] against the "
        "model before training, paired over 20 examples"
    )
    assert promote_round(journal, root, "demo", 2) == "run 'demo' answers with round 2 already"
    with pytest.raises(ShownWorseError, match=r"round 3 .* worse: chrf \(test\) -0.0500 .*--force"):
        promote_round(journal, root, "demo", 3)
    promoted = find_promoted(journal, "demo")
    assert promoted is not None
    assert promoted.round == 2
    assert "round 3 now" in promote_round(journal, root, "demo", 3, force=True)
    assert [event.payload["forced"] for event in list_promotions(journal, "demo")] == [False, True]
    # Without a score nothing is shown.
    assert promote_round(journal, root, "demo", 4).endswith("now, without a score to compare")


def test_a_lower_score_is_better_where_the_metric_says_so(tmp_path: Path) -> None:
    journal = build(tmp_path, metric="nll")
    promote_round(journal, str(tmp_path), "demo", 1, force=True)
    with pytest.raises(ShownWorseError, match=r"nll \(test\) \+0.2000"):
        promote_round(journal, str(tmp_path), "demo", 2)
    journal.close()


def test_without_predictions_the_intervals_of_the_means_decide(
    journal: Journal, tmp_path: Path
) -> None:
    folder = RunFolder(str(tmp_path), "demo")
    for round in ROUNDS:
        folder.remove(f"rounds/{round:03d}/predictions.jsonl")
    promote_round(journal, str(tmp_path), "demo", 2)
    # A twentieth less, with intervals of four hundredths on both sides, is not shown to be worse.
    said = promote_round(journal, str(tmp_path), "demo", 3)
    assert said.endswith("-0.0500 [-0.1300, +0.0300] against round 2, by the means of both")
    with pytest.raises(ShownWorseError, match="against round 3, by the means of both"):
        promote_round(journal, str(tmp_path), "demo", 1)


def test_the_way_back_leads_through_every_promotion(journal: Journal, tmp_path: Path) -> None:
    root = str(tmp_path)
    for round in (1, 2, 4):
        promote_round(journal, root, "demo", round)
    assert take_promotion_back(journal, "demo") == "run 'demo' answers with round 2 again"
    promote_round(journal, root, "demo", 3, force=True)
    assert take_promotion_back(journal, "demo") == "run 'demo' answers with round 2 again"
    assert take_promotion_back(journal, "demo") == "run 'demo' answers with round 1 again"
    assert "no promoted adapter any more" in take_promotion_back(journal, "demo")
    with pytest.raises(UserError, match="run 'demo' has no promoted adapter to go back from"):
        take_promotion_back(journal, "demo")
    assert [event.round for event in list_promotions(journal, "demo")] == [
        1, 2, 4, None, 3, None, None, None
    ]  # fmt: skip


def test_two_at_once_do_not_overwrite_each_other(journal: Journal, tmp_path: Path) -> None:
    before = find_promoted(journal, "demo")
    promote_round(journal, str(tmp_path), "demo", 1)
    with pytest.raises(UserError, match="got another promotion meanwhile"):
        enter_promotion(journal, "demo", 2, before, False)


def test_a_wrong_round_or_metric_is_one_line(journal: Journal, tmp_path: Path) -> None:
    for round, metric, line in (
        (7, None, r"round is 7, expected a trained round of run 'demo' \(1, 2, 3, 4\)"),
        (2, "output_length", "metric is 'output_length', expected one that .* scores by: chrf"),
    ):
        with pytest.raises(UserError, match=line):
            promote_round(journal, str(tmp_path), "demo", round, metric)
    RunFolder(str(tmp_path), "demo").remove("rounds/004/adapter")
    with pytest.raises(UserError, match="is missing, although the journal has the training"):
        promote_round(journal, str(tmp_path), "demo", 4)
    with pytest.raises(UserError, match="run 'dema' is unknown; did you mean 'demo'"):
        promote_round(journal, str(tmp_path), "dema", 1)


def test_the_name_of_the_run_is_that_of_the_promoted_adapter(
    journal: Journal, tmp_path: Path
) -> None:
    def open_directory() -> AdapterDirectory:
        return AdapterDirectory(ModelConfig(id="maker/tiny"), "tiny", str(tmp_path), journal)

    directory = open_directory()
    for name, line in {
        "tiny:demo": "run 'demo' has no promoted adapter, expected tiny:demo-ROUND",
        "tiny:dema": "there is no run 'dema'",
        "tiny:Demo": "expected tiny, tiny:RUN-ROUND or tiny:RUN",
    }.items():
        with pytest.raises(ApiError, match=line):
            directory.parse(name)
    promote_round(journal, str(tmp_path), "demo", 1)
    assert directory.parse("tiny:demo") == "demo-1"
    promote_round(journal, str(tmp_path), "demo", 2)
    found = directory.find_named("tiny:demo")  # at once
    assert found is not None
    assert (found.path / "adapter_model.safetensors").read_bytes() == b"weights 2"
    assert open_directory().parse("tiny:demo") == "demo-2"  # and after a restart
    assert dict(directory.list()).keys() >= {"tiny:demo", "tiny:demo-1", "tiny:demo-4"}
    take_promotion_back(journal, "demo")
    assert directory.parse("tiny:demo") == "demo-1"
    assert directory.parse("tiny:demo-2") == "demo-2"
    assert directory.parse("tiny") is None


def test_an_adapter_comes_with_what_its_training_answered(journal: Journal, tmp_path: Path) -> None:
    """A replica checks it by that."""
    probe = Probe("a", [1], [-2.0], [-1.0], [5])
    folder = RunFolder(str(tmp_path), "demo")
    folder.write_json("rounds/002/training.json", {"losses": [], "probes": [vars(probe)]})
    folder.write_json("rounds/003/training.json", {"losses": []})  # of an older version
    directory = AdapterDirectory(ModelConfig(id="maker/tiny"), "tiny", str(tmp_path), journal)
    found = [list(directory.find(f"demo-{round}").probes) for round in (1, 2, 3)]
    assert found == [[], [probe], []]


def test_a_run_that_is_called_like_an_adapter_has_its_name(tmp_path: Path) -> None:
    journal = build(tmp_path, "demo-2")
    directory = AdapterDirectory(ModelConfig(id="maker/tiny"), "tiny", str(tmp_path), journal)
    promote_round(journal, str(tmp_path), "demo-2", 3, force=True)
    assert directory.parse("tiny:demo-2") == "demo-2-3"
    journal.close()


def test_the_command_line_promotes_and_goes_back(journal: Journal, tmp_path: Path) -> None:
    storage = ("--storage", str(tmp_path))
    done = call("runs", "promote", "demo", "2", *storage)
    assert (done.status, done.out[:37]) == (0, "run 'demo' answers with round 2 now: ")
    refused = call("runs", "promote", "demo", "3", *storage)
    assert refused.status == 2
    assert "round 3 of run 'demo' is shown to be worse" in refused.err
    assert call("runs", "promote", "demo", "3", "--force", *storage).status == 0
    back = call("runs", "promote", "demo", "--back", *storage)
    assert back.out == "run 'demo' answers with round 2 again\n"
    for wrong in ((), ("2", "--back")):
        ended = call("runs", "promote", "demo", *wrong, *storage)
        assert (ended.status, ended.err.count("\n")) == (2, 1)
        assert "expected ROUND or --back, one of the two" in ended.err
    house = House(tmp_path)
    rows = [(row["action"], row["target"], row["result"]) for row in house.log.read()]
    assert ("promote round", "round 3", "failed: ShownWorseError") in rows
    assert any(row["detail"].get("force") for row in house.log.read())
    assert ("take promotion back", None, "ok") in rows
    house.journal.close()


def test_http_promotes_refuses_and_goes_back(journal: Journal, tmp_path: Path) -> None:
    house = House(tmp_path)
    admin = bearer(house.tokens.create("admin", "root"))
    path = "/api/v1/runs/demo/promoted"

    def put(**body: Any) -> Any:
        return house.client.put(path, headers=admin, json=body)

    assert put(round=2).json()["message"].startswith("run 'demo' answers with round 2 now")
    worse = put(round=3)
    assert worse.status_code == 409
    assert "force=true promotes it all the same" in worse.text
    assert put(round=3, force=True).status_code == 200
    assert put(round=9).status_code == 400
    assert put(round=0).status_code == 422
    back = house.client.delete(path, headers=admin)
    assert back.json() == {"name": "demo", "message": "run 'demo' answers with round 2 again"}
    assert house.client.delete(path, headers=admin).status_code == 200
    assert house.client.delete(path, headers=admin).status_code == 409
    ann = bearer(house.tokens.create("annotator", "ann"))
    assert house.client.put(path, headers=ann, json={"round": 1}).status_code == 403
    forced = [row["detail"] for row in house.entries(run="demo") if row["detail"].get("force")]
    assert forced
    house.journal.close()
