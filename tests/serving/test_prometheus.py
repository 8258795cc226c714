"""Metrics of runs and requests; and alerts and dashboard, which name nothing that is not told."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from helpers.human_desk import HumanDesk
from helpers.services import bearer
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from atgen_ray.annotation.llm.request_totals import recount_requests
from atgen_ray.config import StoppingConfig
from atgen_ray.core.records import Annotation, DeadLetter
from atgen_ray.serving.application import create_api, parse_service
from atgen_ray.serving.metrics import RunCollector
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import NANO, Entry, Ledger
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import controllers, events, requests, shards

MONITORING = Path(__file__).parents[2] / "cluster" / "monitoring"
Found = dict[tuple[str, tuple[str, ...]], float]


def enter_requests(journal: Journal, run: str) -> None:
    """A shard under way of two requests, an hour old."""
    with journal.run_transaction(run) as connection:
        now = journal.database.clock(connection)
        shard = {"run": run, "annotator": "model", "round": 1, "time": now - 3600}
        more = {"size": 2, "status": "sent", "done": False}
        connection.execute(sa.insert(shards).values(hash="h", **shard, **more))
        for at in range(2):
            request = {"custom_id": f"c{at}", "example_id": f"e{at}", "prompt_hash": "p"}
            counts = {"vote": 0, "repair": 0, "attempt": 0, "state": "sent"}
            connection.execute(sa.insert(requests).values(shard="h", **shard, **request, **counts))
        recount_requests(connection, run)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What a service tells of a run with something of everything, and of one that has ended."""
    tmp_path = tmp_path_factory.mktemp("told")
    journal = Journal(f"sqlite:///{tmp_path}/atgen.db")
    lease = journal.acquire(journal.create_run("busy", {}, "").name, ProcessIdentity("a"), 600)
    journal.set_status(lease, "running")
    journal.append(lease, "step", 1, "annotation", {"rows": 1})
    journal.record_annotations(lease, 1, [Annotation("a", "text", "model", 0.5)])
    journal.record_dead_letters(lease, 1, [DeadLetter("e2", "annotation", "refused")])
    enter_requests(journal, "busy")
    with journal.leased_transaction(lease) as connection:
        entries = [Entry("key", "e1", 2 * NANO)]
        Ledger("busy", StoppingConfig(dollars=10)).reserve(connection, 1, "model", entries)
    with journal.database.writing() as connection:
        now = journal.database.clock(connection)
        connection.execute(sa.update(events).values(time=now - 100))
        connection.execute(sa.update(controllers).values(expires=now - 30, epoch=4))
    RunFolder(str(tmp_path), "busy").write_json(
        "provider.json",
        {"provider": "openai", "in_flight": 1, "waiting_until": now + 500, "queue_full": False}
        | {"last_error": "", "failing": False, "time": now},
    )
    desk = HumanDesk(journal)
    desk.publish_tasks()
    token = Tokens(journal.database).create("admin")
    app = create_api(parse_service({"storage": str(tmp_path)}), None, None)
    client = TestClient(app, headers=bearer(token))
    client.get("/api/v1/runs/nobody")
    text = client.get("/metrics").text
    journal.close()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_run_tells_what_an_operator_has_to_know(told: Found) -> None:
    assert told["atgen_run_labels", ("busy",)] == 1
    assert told["atgen_run_dollars", ("busy",)] == 0.5
    assert told["atgen_run_dollars_held", ("busy",)] == 2
    assert told["atgen_run_idle_seconds", ("busy",)] == pytest.approx(100, abs=20)
    assert told["atgen_run_lease_seconds", ("busy",)] == pytest.approx(-30, abs=20)
    assert told["atgen_run_controllers_total", ("busy",)] == 4
    assert told["atgen_run_dead_letters", ("busy", "annotation")] == 1
    assert told["atgen_run_requests", ("busy", "sent")] == 2
    assert told["atgen_run_oldest_request_seconds", ("busy",)] == pytest.approx(3600, abs=20)
    assert told["atgen_run_provider_wait_seconds", ("busy",)] == pytest.approx(500, abs=20)
    assert told["atgen_run_status", ("busy", "interrupted")] == 1
    assert told["atgen_runs", ("interrupted",)] >= 1
    [tasks] = [key for key in told if key[0] == "atgen_run_tasks"]
    assert tasks[1][1] == "open"
    assert told["atgen_run_oldest_task_seconds", tasks[1]] == pytest.approx(0, abs=20)
    assert told["atgen_ready", ("database",)] == 1
    assert told["atgen_ready", ("replicas",)] == 0  # Serve is not there
    assert told["atgen_http_requests_total", ("GET", "404")] == 1
    assert told["atgen_http_request_seconds_bucket", ("2.5",)] == 1


def list_names(text: str) -> set[str]:
    return set(re.findall(r"\batgen_[a-z_]+\b", text))


def test_alerts_and_dashboard_name_nothing_that_is_not_told(told: Found) -> None:
    known = {name for name, _ in told}
    tree: Any = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    rules = [rule for group in tree["groups"] for rule in group["rules"]]
    board = json.loads((MONITORING / "dashboard.json").read_text())
    targets = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked = [*(rule["expr"] for rule in rules), *targets]
    assert set().union(*map(list_names, asked)) <= known
    recorded = {rule["record"] for rule in rules if "record" in rule}
    assert set(re.findall(r"atgen:[a-z_:0-9]+", " ".join(asked))) <= recorded
    # Each of ours is on the dashboard.
    parts = ("_created", "_sum", "_count", "_status")
    ours = {name for name in known if name.startswith("atgen_") and not name.endswith(parts)}
    assert ours <= set().union(*map(list_names, targets))
    guide = (MONITORING.parents[1] / "docs" / "operations.md").read_text()
    assert [r["alert"] for r in rules if "alert" in r and r["alert"] not in guide] == []


def test_each_alert_fires_when_it_should() -> None:
    """By promtool (`apt-get install prometheus`); without it, by the files' shape alone."""
    tests: Any = yaml.safe_load((MONITORING / "alerts.test.yaml").read_text())
    fired = {
        re.search('alertname="([A-Za-z]+)"', sample["labels"])[1]  # type: ignore[index]
        for sample in tests["tests"][0]["promql_expr_test"][0]["exp_samples"]
    }
    tree: Any = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    alerts = {
        rule["alert"] for group in tree["groups"] for rule in group["rules"] if "alert" in rule
    }
    assert fired | {"AtgenGone"} == alerts
    if promtool := shutil.which("promtool"):
        for what, file in (("check", "alerts.yaml"), ("test", "alerts.test.yaml")):
            subprocess.run(
                [promtool, what, "rules", file], cwd=MONITORING, check=True, capture_output=True
            )


def test_what_can_be_told_is_told_while_the_database_is_away(tmp_path: Path) -> None:
    journal = Journal(f"sqlite:///{tmp_path}/atgen.db")
    journal.close()
    registry = CollectorRegistry()
    registry.register(RunCollector(journal, str(tmp_path), {"database": True, "storage": False}))
    text = generate_latest(registry).decode()
    assert 'atgen_ready{check="database"} 0.0' in text
    assert 'atgen_ready{check="storage"} 1.0' in text
    assert "atgen_run_round" not in text
