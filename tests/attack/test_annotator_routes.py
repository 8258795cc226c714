"""An annotator with a token for one run, against every route of the service. The routes are those
of the application itself, so a new one is tried without being named here.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from fastapi.routing import APIRoute
from helpers.annotator_routes import ALLOWED
from helpers.human_desk import HumanDesk
from helpers.report_runs import MadeUp, write_run
from helpers.services import bearer
from starlette.testclient import TestClient

from atgen_ray.config import ServiceConfig
from atgen_ray.core.records import Annotation
from atgen_ray.serving.application import create_api
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import Entry, Ledger
from atgen_ray.store.owner import ProcessIdentity

SECRET = "canary-of-the-other-run"
SETTING = "canary-of-a-setting"
MONEY = "98.7654"
PUBLIC = {"/healthz", "/readyz", "/static/{digest}/{name}", "/sign-in", "/invite", "/openapi.json"}
BODY = {"text": "x", "reason": "x", "comment": "x", "revision": 1, "count": 1, "confirm": "x"}


class Attack:
    """A service with a run that was shared with an annotator, and one that was not."""

    def __init__(self, storage: Path) -> None:
        self.journal = Journal(f"sqlite:///{storage}/atgen.db")
        self.shared = self._add_run(storage, "shared")
        self.other = self._add_run(storage, SECRET)
        self.app = create_api(ServiceConfig(storage=str(storage)), None, None)
        known = Tokens(self.journal.database)
        self._client = TestClient(self.app, raise_server_exceptions=False)
        self._headers = {
            "annotator": bearer(known.create("annotator", "mallory", runs=[self.shared])),
            "admin": bearer(known.create("admin", "root")),
        }

    def _add_run(self, storage: Path, word: str) -> str:
        desk = HumanDesk(self.journal, 2, guidelines=f"guidelines {word}")
        desk.publish_tasks()
        folder = write_run(str(storage), desk.run, MadeUp(price=float(MONEY)))
        tree = yaml.safe_load(folder.read_text("config.yaml"))
        folder.write_text("config.yaml", yaml.safe_dump(tree | {"seed": SETTING}))
        lease = self.journal.acquire(desk.run, ProcessIdentity("c"), 600, takeover=True)
        with self.journal.leased_transaction(lease) as connection:
            ledger = Ledger(desk.run, desk.config.stopping)
            ledger.reserve(connection, 1, "m", [Entry("k", "e00", int(float(MONEY) * 1e9))])
            ledger.settle(connection, {"k": int(float(MONEY) * 1e9)})
        self.journal.record_annotations(lease, 1, [Annotation("e00", f"label {SETTING}", "m")])
        self.journal.append(lease, "changed", payload={"by": "root", "changes": [{"now": SETTING}]})
        self.journal.append(lease, "failed", payload={"message": f"{SETTING} ${MONEY}"})
        self.journal.set_status(lease, "failed")
        lease.release()
        return desk.run

    def send(self, who: str, method: str, path: str, run: str, accept: str = "*/*") -> Any:
        values = {"name": run, "part": "rounds", "id": "e00", "file": "x.jsonl", "job": "x"}
        url = re.sub(r"\{(\w+)(:\w+)?\}", lambda found: values.get(found[1], "x"), path)
        headers = self._headers[who] | {"Idempotency-Key": uuid4().hex, "Accept": accept}
        query = {"run": [run, self.shared]} if path in ("/compare", "/api/v1/report") else {}
        body = None if method == "GET" else BODY
        return self._client.request(method, url, headers=headers, json=body, params=query)

    def routes(self) -> list[tuple[str, str]]:
        return sorted(
            (method, route.path)
            for route in self.app.routes
            if isinstance(route, APIRoute) and route.path not in PUBLIC
            for method in route.methods
        )


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Attack:
    return Attack(tmp_path_factory.mktemp("attack"))


def each_route(check: Callable[[str, str], list[str]], attack: Attack) -> None:
    """Asserts that no route gives a complaint."""
    complaints = [line for method, path in attack.routes() for line in check(method, path)]
    assert not complaints, "\n".join(complaints)


def test_the_routes_are_tried(attack: Attack) -> None:
    assert len(attack.routes()) > 50
    assert set(attack.routes()) >= ALLOWED


def test_a_run_that_was_not_shared_does_not_exist(attack: Attack) -> None:
    """The answer is that for a run that nobody has, and says nothing of it."""

    def check(method: str, path: str) -> list[str]:
        if "{name}" not in path:
            return []
        found = []
        for accept in ("*/*", "text/html"):
            answer = attack.send("annotator", method, path, attack.other, accept)
            nobody = attack.send("annotator", method, path, "nobody", accept)
            if answer.status_code not in (403, 404, 422):
                found.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
            if answer.text.replace(attack.other, "nobody") != nobody.text:
                found.append(f"{method} {path} tells that the run exists: {answer.text[:200]}")
            if SECRET in answer.text:
                found.append(f"{method} {path} tells of the run")
        return found

    each_route(check, attack)


def test_what_an_annotator_may_call_is_named(attack: Attack) -> None:
    def check(method: str, path: str) -> list[str]:
        answer = attack.send("annotator", method, path, attack.shared)
        allowed = answer.status_code != 403
        if allowed == ((method, path) in ALLOWED):
            return []
        return [f"{method} {path}: {answer.status_code} {answer.text[:200]}"]

    each_route(check, attack)


def test_an_annotator_sees_neither_other_runs_nor_money_nor_settings(attack: Attack) -> None:
    """In pages, in HTTP, and in streams of events."""

    def check(method: str, path: str) -> list[str]:
        if (method, path) not in ALLOWED or path == "/sign-out":
            return []
        answer = attack.send("annotator", method, path, attack.shared)
        found = [f"{method} {path}: {answer.status_code}"] if answer.status_code >= 500 else []
        for secret in (SECRET, attack.other, SETTING, MONEY, MONEY[:5]):
            if secret in answer.text:
                found.append(f"{method} {path} tells {secret}")
        if re.search(r'\$\d|"\w*dollars": ?[0-9]', answer.text):
            found.append(f"{method} {path} tells of dollars")
        return found

    each_route(check, attack)
    # An admin does see them, so the words are there to be found.
    for path, secret in (
        ("/", attack.other),
        ("/api/v1/runs/{name}", SETTING),
        ("/api/v1/runs/{name}/events", MONEY),
        ("/runs/{name}/parts/config", SETTING),
        ("/runs/{name}/parts/state", MONEY[:5]),
    ):
        assert secret in attack.send("admin", "GET", path, attack.shared).text, path


def test_every_parameter_for_a_run_in_a_path_is_called_name(attack: Attack) -> None:
    """It is what `allow` looks at."""
    runs = [path for _, path in attack.routes() if re.match(r"(/api/v1)?/(runs|annotate)/\{", path)]
    assert runs
    assert [path for path in runs if "{name}" not in path] == []
