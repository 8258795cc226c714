"""The task list at 100,000 tasks: how long a page, a count and a bulk action take.

    python benchmarks/task_list.py [--tasks 100000] [--postgres] [--loads 20] [--only WORD]
                                   [--output benchmarks/results/task_list]

Fills a journal with tasks of about 900 characters, of which 20 people have answered, skipped or
flagged some; serves it on this machine, in a process of its own without Ray; and asks for a page
and a count of every kind of filter, one request after the other. Bulk actions change 10,000 tasks.
Headless Chromium opens the page: until its scripts have run, and until the count is there. The peer
is /healthz of the same server. Writes PREFIX.json and PREFIX.md.
"""

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import httpx
import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from helpers.browsing import launch_chromium
from helpers.human_desk import HumanDesk
from helpers.ports import free_port
from helpers.postgres import run_postgres
from helpers.services import bearer
from playwright.sync_api import sync_playwright

from atgen_ray.core.hashing import hash_text
from atgen_ray.core.records import POOL_SCHEMA
from atgen_ray.embedding.pool import EMBEDDING_SCHEMA
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import assignments, reviews, tasks

WORDS = "the outcome of our approach is a model for language that improves recall über Köln 日本語"
PEOPLE = 20
BULK = 10_000
DIMENSIONS = 384


def serve(storage: str, database_url: str, port: int) -> None:
    import uvicorn

    from atgen_ray.serving.application import create_api, parse_service

    service = parse_service({"storage": storage, "database_url": database_url})
    app = create_api(service, None, None)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def fill(journal: Journal, storage: str, count: int) -> tuple[str, list[str]]:
    """Put a run with its tasks into a journal; return its name and the ids."""
    rng = random.Random(0)
    words = WORDS.split()
    desk = HumanDesk(journal, 0, overlap=2)
    ids = [hash_text(f"example {at}")[:24] for at in range(count)]
    sizes = [rng.randint(60, 260) for _ in ids]
    texts = [" ".join(rng.choices(words, k=size)) for size in sizes]
    texts[count // 2] += " zebra"
    for begin in range(0, count, 5000):
        rows = []
        work = []
        judged = []
        for at in range(begin, min(count, begin + 5000)):
            state = rng.choices(["open", "taken", "answered", "disputed"], [50, 40, 8, 2])[0]
            score = rng.random()
            rows.append(
                {
                    "run": desk.run,
                    "example_id": ids[at],
                    "round": 1 + at * 5 // count,
                    "rank": at,
                    "wanted": 2,
                    "state": state,
                    "input": texts[at],
                    "why": {
                        "strategy": "huds",
                        "rank": at,
                        "score": score,
                        "parts": {"uncertainty": rng.random(), "density": rng.random()},
                    },
                    "score": score,
                    "agreement": None if state == "open" else rng.random(),
                    "fields": {
                        "venue": rng.choice(["ACL", "EMNLP", "NAACL"]),
                        "year": rng.randint(1990, 2030),
                        "rare": "yes" if at % 20_000 == 7 else "no",
                    },
                    "changed": 1.7e9 + at,
                }
            )
            for person in rng.sample(range(PEOPLE), 0 if state == "open" else 2):
                did = rng.choices(["submitted", "skipped", "flagged"], [97, 2, 1])[0]
                work.append(
                    {
                        "run": desk.run,
                        "example_id": ids[at],
                        "annotator": f"person {person}",
                        "state": did,
                        "until": 0.0,
                        "leased": 0.0,
                        "revision": 1,
                        "text": f"label of {ids[at]}" if did == "submitted" else None,
                        "note": None if did == "submitted" else "not my field",
                        "seconds": 20.0,
                        "answered": 1.7e9 + at,
                    }
                )
                if at % 50 == 0 and did == "submitted":
                    judged.append(
                        {
                            "run": desk.run,
                            "example_id": ids[at],
                            "annotator": f"person {person}",
                            "verdict": "accepted",
                            "text": "",
                            "comment": "",
                            "by": "root",
                            "drawn": True,
                            "time": 1.8e9,
                        }
                    )
        with journal.database.writing() as connection:
            connection.execute(sa.insert(tasks), rows)
            connection.execute(sa.insert(assignments), work)
            connection.execute(sa.insert(reviews), judged)
    folder = RunFolder(storage, desk.run)
    contents = [hash_text(text) for text in texts]
    pool = {
        "id": ids,
        "row": list(range(count)),
        "text": texts,
        "content": contents,
        "duplicate_of": pa.nulls(count, pa.string()),
    }
    folder.write_table("pool.parquet", pa.table(pool, POOL_SCHEMA))
    generator = np.random.default_rng(0)
    for begin in range(0, count, 20_000):
        part = contents[begin : begin + 20_000]
        vectors = generator.normal(size=(len(part), DIMENSIONS)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        offsets = np.arange(0, vectors.size + 1, DIMENSIONS, dtype=np.int32)
        lists = pa.ListArray.from_arrays(offsets, vectors.ravel())
        folder.write_table(f"embeddings/{begin}.parquet", pa.table([part, lists], EMBEDDING_SCHEMA))
    return desk.run, ids


def list_filters(ids: list[str]) -> dict[str, dict[str, Any]]:
    """One filter of every kind, and some together."""
    return {
        "all": {},
        "state": {"state": ["disputed"]},
        "round": {"round": 4},
        "text of many": {"q": "köln"},
        "text of one": {"q": "zebra"},
        "text of none": {"q": "no such words"},
        "text of an answer": {"q": ids[-1] if ids else "", "within": "answers"},
        "person": {"person": "person 3"},
        "person answered": {"person": "person 3", "did": "submitted"},
        "flagged": {"did": "flagged", "sort": "newest"},
        "kept for nobody": {"assigned": "nobody"},
        "to review, at random": {
            "state": ["answered", "taken"],
            "did": "submitted",
            "review": "none",
            "sort": "random",
        },
        "accepted": {"review": "accepted"},
        "score": {"score_from": 0.99, "sort": "-score"},
        "part of the score": {"part": "density", "part_from": 0.999},
        "agreement": {"agreement_to": 0.01, "sort": "agreement"},
        "column": {"field": ["venue=ACL"]},
        "rare column": {"field": ["rare=yes"]},
        "number in a column": {"field": ["year>=2030"], "sort": "-score"},
        "newest": {"sort": "newest"},
        "similar": {"like": ids[0], "sort": "similarity"},
        "similar and open": {"like": ids[0], "sort": "similarity", "state": ["open"]},
    }


def time_requests(client: httpx.Client, path: str, loads: int) -> list[float]:
    """Milliseconds of each request."""
    times = []
    for _ in range(loads):
        started = time.perf_counter()
        client.get(path).raise_for_status()
        times.append(1000 * (time.perf_counter() - started))
    return times


def describe(times: list[float]) -> dict[str, float]:
    return {
        "first": times[0],
        "p50": float(np.percentile(times, 50)),
        "p95": float(np.percentile(times, 95)),
    }


def act(client: httpx.Client, path: str, run: str) -> Iterator[tuple[str, dict[str, float]]]:
    """Bulk actions on 10,000 tasks, and their undoing."""
    search = {"field": ["venue=ACL"], "state": ["open"]}
    page = client.get(f"{path}/list?{urlencode(search, doseq=True)}&limit=500")
    page.raise_for_status()
    ids: list[str] = []
    after = None
    while len(ids) < BULK:
        more = {"limit": 500, "state": "taken"} | ({"after": after} if after else {})
        found = client.get(f"{path}/list?{urlencode(more)}").json()
        ids += [task["id"] for task in found["tasks"]]
        after = found["next"]
        if after is None:
            break
    requests: list[tuple[str, dict[str, Any]]] = [
        ("label next, by filter", {"verb": "next", "filter": search}),
        ("label next, by ids", {"verb": "next", "ids": ids[:BULK]}),
        ("keep for a person", {"verb": "assign", "filter": search, "who": ["person 3"]}),
        ("drop", {"verb": "drop", "filter": search, "reason": "benchmark"}),
        ("open again", {"verb": "reopen", "ids": ids[:BULK], "reason": "benchmark"}),
    ]
    for name, body in requests:
        started = time.perf_counter()
        answer = client.post(f"{path}/bulk", json=body)
        answer.raise_for_status()
        seconds = time.perf_counter() - started
        done = answer.json()
        undone = float("nan")
        if body["verb"] != "reopen":
            started = time.perf_counter()
            client.post(f"{path}/bulk/{done['number']}/undo").raise_for_status()
            undone = time.perf_counter() - started
        yield name, {"tasks": done["tasks"], "seconds": seconds, "undo": undone}


def browse(url: str, token: str, run: str, loads: int) -> dict[str, dict[str, float]]:
    """Milliseconds until the scripts of the page have run, and until its count is there."""
    ready: list[float] = []
    counted: list[float] = []
    with sync_playwright() as playwright:
        browser = launch_chromium(playwright)
        context = browser.new_context(base_url=url)
        context.add_cookies(
            [{"name": "atgen", "value": token, "url": url, "httpOnly": True, "sameSite": "Strict"}]
        )
        for _ in range(loads):
            page = context.new_page()
            page.goto(f"/annotate/{run}/tasks", wait_until="load")
            ready.append(
                page.evaluate(
                    "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
                )
            )
            page.locator("#count", has_text="task").wait_for()
            counted.append(page.evaluate("performance.now()"))
            page.close()
        browser.close()
    return {"interactive": describe(ready), "count": describe(counted)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--loads", type=int, default=20)
    parser.add_argument("--only", default="", help="filters with this word in their name")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/task_list"))
    args = parser.parse_args()
    with ExitStack() as stack:
        storage = stack.enter_context(tempfile.TemporaryDirectory(prefix="atgen-list-"))
        url = f"sqlite:///{storage}/atgen.db"
        if args.postgres:
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="atgen-pg-"))
            url = stack.enter_context(run_postgres(Path(place))).url
        journal = Journal(url)
        started = time.perf_counter()
        run, ids = fill(journal, storage, args.tasks)
        if args.postgres:
            engine = sa.create_engine(
                sa.make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
            )
            with engine.connect() as connection:
                connection.execute(sa.text("ANALYZE"))  # as autovacuum does soon
        token = Tokens(journal.database).create("admin", "root")
        print(f"filled in {time.perf_counter() - started:.0f} s", flush=True)
        port = free_port()
        server = multiprocessing.get_context("spawn").Process(
            target=serve, args=(storage, url, port)
        )
        server.start()
        stack.callback(server.join, 10)
        stack.callback(server.terminate)
        address = f"http://127.0.0.1:{port}"
        client = httpx.Client(base_url=address, headers=bearer(token), timeout=300)
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                client.get("/healthz")
                break
            except httpx.TransportError:
                time.sleep(0.2)
        path = f"/api/v1/runs/{run}/tasks"
        found: dict[str, Any] = {"tasks": args.tasks, "database": url.partition(":")[0]}
        found["healthz"] = describe(time_requests(client, "/healthz", args.loads))
        found["filters"] = {}
        for name, filter in list_filters(ids).items():
            if args.only not in name:
                continue
            query = urlencode(filter, doseq=True)
            one = {
                "list": describe(time_requests(client, f"{path}/list?{query}", args.loads)),
                "count": describe(time_requests(client, f"{path}/count?{query}", args.loads)),
            }
            found["filters"][name] = one
            print(
                name,
                {key: {k: round(v) for k, v in value.items()} for key, value in one.items()},
                flush=True,
            )
        found["page"] = describe(time_requests(client, f"/annotate/{run}/tasks", args.loads))
        if not args.only:
            found["browser"] = browse(address, token, run, args.loads)
            print(found["page"], found["browser"], flush=True)
            found["bulk"] = {}
            for name, bulk in act(client, path, run):
                found["bulk"][name] = bulk
                print(name, bulk, flush=True)
        journal.close()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.with_suffix(".json").write_text(json.dumps(found, indent=2))
    args.output.with_suffix(".md").write_text(write_tables(found))
    print(write_tables(found))


def write_tables(found: dict[str, Any]) -> str:
    """The numbers as tables in Markdown: milliseconds, and seconds of bulk actions."""
    lines = [f"{found['tasks']:,} tasks, {found['database']}", ""]
    lines += [
        "| filter | page p50 | page p95 | count p50 | count p95 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, one in found["filters"].items():
        numbers = [one[part][at] for part in ("list", "count") for at in ("p50", "p95")]
        lines.append(f"| {name} | " + " | ".join(f"{number:.0f}" for number in numbers) + " |")
    for name, one in found.get("bulk", {}).items():
        lines.append(
            f"{name}: {one['tasks']:,} tasks in {one['seconds']:.1f} s, "
            f"undone in {one['undo']:.1f} s"
        )
    for name in ("healthz", "page"):
        lines.append(f"{name}: {found[name]['p50']:.0f} ms (p95 {found[name]['p95']:.0f})")
    for name, one in found.get("browser", {}).items():
        lines.append(f"browser, {name}: {one['p50']:.0f} ms (p95 {one['p95']:.0f})")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
