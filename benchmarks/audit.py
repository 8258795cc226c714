"""Answers a second of the annotation API beside the audit log, and entries a second of the log.

    python benchmarks/audit.py [--people 4] [--seconds 15] [--rounds 3] [--writers 4]

One process serves the API on SQLite; each person, a thread, leases tasks, saves a draft and
submits, without a pause. To compare with a version before, run the same file with its package on
PYTHONPATH: the rates of the log are then left out. Prints a line of JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import httpx
from helpers.desk_server import DeskServer
from helpers.human_desk import HumanDesk
from helpers.ports import free_port
from helpers.services import bearer

from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import Journal


def label(url: str, run: str, token: str, until: float) -> int:
    """Answers by one person."""
    done = 0
    base = f"/api/v1/runs/{run}/tasks"
    with httpx.Client(base_url=url, headers=bearer(token), timeout=60) as client:
        while time.monotonic() < until:
            for task in client.post(f"{base}/lease", json={"count": 5}).json()["tasks"]:
                client.put(f"{base}/{task['id']}/draft", json={"text": "a", "revision": 1})
                answer = client.post(
                    f"{base}/{task['id']}/submit",
                    json={"text": "a label", "seconds": 1.0},
                    headers={"Idempotency-Key": uuid4().hex},
                )
                answer.raise_for_status()
                done += 1
    return done


def measure_answers(options: argparse.Namespace) -> list[float]:
    """Answers a second, a number a round."""
    rates = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            journal = Journal(f"sqlite:///{folder}/atgen.db")
            desk = HumanDesk(journal, 5000)
            desk.publish_tasks()
            known = Tokens(journal.database)
            tokens = [known.create("annotator", f"p{n}") for n in range(options.people)]
            server = DeskServer(Path(folder), free_port())
            server.start()
            try:
                began = time.monotonic()
                until = began + options.seconds
                with ThreadPoolExecutor(options.people) as pool:
                    work = [pool.submit(label, server.url, desk.run, t, until) for t in tokens]
                    done = sum(each.result() for each in work)
                rates.append(done / (time.monotonic() - began))
            finally:
                server.kill()
                journal.close()
    return rates


def measure_log(options: argparse.Namespace, url: str) -> dict[str, Any]:
    """Entries a second, one and fifty a transaction, and of a verification."""
    from atgen_ray.store.audit import AuditLog, Entry, Who

    journal = Journal(url)
    log = AuditLog(journal.database)
    entry = Entry("http", "PUT /api/v1/runs/x/title", Who("abc", "ann", "10.0.0.1"), "200", "x")
    found: dict[str, Any] = {}
    for size in (1, 50):
        until = time.monotonic() + 5
        counts = [0] * options.writers

        def write(number: int, size: int = size, until: float = until) -> None:
            while time.monotonic() < until:
                log.append([entry] * size)
                counts[number] += size  # noqa: B023 - of this size

        threads = [threading.Thread(target=write, args=(n,)) for n in range(options.writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found[f"entries a second, {size} at once"] = round(sum(counts) / 5)
    began = time.monotonic()
    checked = log.verify()
    found["verified"] = checked.entries
    found["verified a second"] = round(checked.entries / (time.monotonic() - began))
    assert not checked.faults, checked.faults
    journal.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--postgresql", default="", help="URL of a server for the log's rates too")
    options = parser.parse_args()
    rates = measure_answers(options)
    found: dict[str, Any] = {
        "answers a second": [round(rate, 1) for rate in rates],
        "median": round(statistics.median(rates), 1),
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            found["sqlite"] = measure_log(options, f"sqlite:///{folder}/atgen.db")
        if options.postgresql:
            found["postgresql"] = measure_log(options, options.postgresql)
    except ModuleNotFoundError:
        found["log"] = "there is none in this version"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
