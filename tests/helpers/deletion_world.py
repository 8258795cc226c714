"""A storage in which one example and one person are everywhere, brought there by the code that does
so in real runs, without Ray: a run whose labels come from a model, and one that people label.
"""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from pydantic import SecretStr

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.human.exchange.imported_labels import ImportedLabel
from atgen_ray.annotation.human.exchange.label_import import bring_labels
from atgen_ray.annotation.human.lead.bulk import BulkActions, BulkRequest
from atgen_ray.annotation.human.lead.guideline_edits import edit_guidelines, remark
from atgen_ray.annotation.human.lead.reviews import review_answer
from atgen_ray.annotation.human.queue import Queue
from atgen_ray.annotation.human.round_tasks import TaskDraft, TaskRound
from atgen_ray.annotation.registry import build_remote
from atgen_ray.config import RunConfig
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.hashing import hash_text
from atgen_ray.core.progress import ProgressTracker
from atgen_ray.core.records import CONTEXT_SCHEMA, GOLD_SCHEMA, POOL_SCHEMA, DeadLetter
from atgen_ray.embedding.pool import EMBEDDING_SCHEMA, store_embeddings
from atgen_ray.reporting.publish import publish_report
from atgen_ray.runs.controller import Controller
from atgen_ray.runs.doctor import examine
from atgen_ray.runs.provenance import write_provenance
from atgen_ray.runs.queries import export_labels
from atgen_ray.runs.shared_cache import ContentCache
from atgen_ray.serving.security.login import Sessions
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.audit import AuditLog, Entry, Who
from atgen_ray.store.events import WARNING
from atgen_ray.store.journal import Journal
from atgen_ray.store.leases import Lease
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.step_outputs import describe_shared
from helpers.annotation_desk import QUICK, configure, quiet
from helpers.fakes.provider import FakeProvider

CANARY = 'Kanarienvogel "Über" dem Fluß <b>7f3ac0de</b>, Zeile eins'
ID = "e003"
TEST_ID = "t001"
NAME = "Zaphod-Canary"
MODEL_RUN = "paid"
PEOPLE_RUN = "people"


def make_rows(split: str, count: int) -> list[dict[str, Any]]:
    rows = []
    for at in range(count):
        id_ = f"{split}{at:03d}"
        text = CANARY if id_ in (ID, TEST_ID) else f"an ordinary text with the number {at}"
        text += " of the test set" if split == "t" else ""
        rows.append({"id": id_, "row": at, "text": text, "content": hash_text(text),
                     "duplicate_of": None})  # fmt: skip
    return rows


@dataclass
class World:
    """The storage, and its two runs."""

    root: Path
    provider: FakeProvider
    url: str | None = None  # of the journal; None: a file in the storage

    @property
    def storage(self) -> str:
        return str(self.root / "storage")

    def journal(self) -> Journal:
        return Journal(self.url or f"sqlite:///{self.root}/storage/atgen.db")

    def folder(self, run: str) -> RunFolder:
        return RunFolder(self.storage, run)

    def findings(self, journal: Journal) -> list[tuple[str, str]]:
        found = examine(journal, self.storage, None, deep=True).findings
        return [(finding.kind, finding.what) for finding in found]


def build_world(root: Path, provider: FakeProvider, url: str | None = None) -> World:
    """Both runs, with what kills, exports, caches and reports leave."""
    world = World(root, provider, url)
    (root / "storage").mkdir(mode=0o700, parents=True)
    journal = world.journal()
    _run_model(world, journal)
    _run_people(world, journal)
    for run in (MODEL_RUN, PEOPLE_RUN):
        secret = SecretStr(url) if url else None
        export_labels(run, world.storage, secret, "jsonl", root / f"{run}.jsonl")
    journal.close()
    return world


def make_config(world: World, run: str, **settings: Any) -> RunConfig:
    base = configure(world.provider, "openai", "batch")
    tree = dump_config(base) | {"name": run, "storage": world.storage, "cache": None}
    tree |= {"data": {"pool": "p.jsonl", "test": "t.jsonl", "references": "answer"}}
    tree |= {"cache": world.storage} | settings
    return parse_config(tree)


class Hand:
    """A controller of a run, whose steps are made by hand."""

    def __init__(self, world: World, journal: Journal, config: RunConfig) -> None:
        journal.create_run(config.name, dump_config(config), "")
        self.config, self.journal = config, journal
        self.lease: Lease = journal.acquire(config.name, ProcessIdentity("us"), 600)
        self.folder = world.folder(config.name)
        self.controller = Controller(
            config, journal, self.lease, self.folder, ProgressTracker(), quiet
        )
        write_provenance(config, "transformers", self.folder, self.lease.epoch, 1.0)

    def commit(self, round: int, step: str, output: str | None, make: Any) -> None:
        self.controller.committer.commit(round, step, output, lambda progress, out: make(out))

    def read_pool(self) -> None:
        pool, test = make_rows("e", 8), make_rows("t", 3)
        gold = [
            {"id": row["id"], "references": [f"answer to {row['text']}"]} for row in pool + test
        ]
        context = [
            {"id": row["id"], "context": json.dumps([["beside", row["text"]]]), "fields": "{}"}
            for row in pool
        ]

        def make(out: RunFolder) -> None:
            out.write_table("pool.parquet", pa.Table.from_pylist(pool, POOL_SCHEMA))
            out.write_table("test.parquet", pa.Table.from_pylist(test, POOL_SCHEMA))
            out.write_table("gold.parquet", pa.Table.from_pylist(gold, GOLD_SCHEMA))
            out.write_table("context.parquet", pa.Table.from_pylist(context, CONTEXT_SCHEMA))
            out.write_json("plan.json", {"labels": 8})

        self.commit(0, "pool", "pool.parquet", make)

    def embed(self) -> None:
        rows = [{"content": row["content"], "embedding": [1.0, 0.0]} for row in make_rows("e", 8)]

        def make(out: RunFolder) -> dict[str, Any]:
            store_embeddings(self.folder, pa.Table.from_pylist(rows, EMBEDDING_SCHEMA))
            return describe_shared(self.folder, "embeddings")

        self.commit(0, "embedding", None, make)

    def select(self) -> None:
        rows = make_rows("e", 8)
        features = [{"id": row["id"], "text": f"model says {row['text']}"} for row in rows]
        picks = [{"id": row["id"], "rank": at, "score": 1.0, "parts": []}
                 for at, row in enumerate(rows[:6])]  # fmt: skip
        self.commit(1, "generation", "rounds/001/features.parquet",
                    lambda out: out.write_table("rounds/001/features.parquet",
                                                pa.Table.from_pylist(features)))  # fmt: skip
        self.commit(1, "selection", "rounds/001/selection.parquet",
                    lambda out: out.write_table("rounds/001/selection.parquet",
                                                pa.Table.from_pylist(picks, PICKS)))  # fmt: skip

    def context(self) -> AnnotationContext:
        texts = {row["id"]: row["text"] for row in make_rows("e", 8)}
        return AnnotationContext(
            self.config, self.journal, self.lease, self.folder, 1, texts, (), quiet
        )

    def finish(self) -> None:
        """Labels on disk, an adapter, predictions, a report, and what a kill leaves."""
        labels = [asdict(label) for _, label in self.journal.annotations(self.config.name)]
        path = "rounds/001/annotations.jsonl"
        self.commit(1, "annotation", path, lambda out: out.write_jsonl(path, labels))
        self.controller.labels.write(1)

        def train(out: RunFolder) -> None:
            with out.publish("rounds/001/adapter") as adapter:
                (adapter / "adapter_model.safetensors").write_bytes(b"weights")
            out.write_json("rounds/001/training.json",
                           {"losses": [], "examples": 6, "tokens": 9, "steps": 1})  # fmt: skip

        self.commit(1, "training", "rounds/001/adapter", train)

        def evaluate(out: RunFolder) -> None:
            rows = [
                {"id": row["id"], "split": "test", "prediction": f"says {row['text']}",
                 "references": [f"answer to {row['text']}"], "scores": {"rougeL": 0.5}}
                for row in make_rows("t", 3)
            ]  # fmt: skip
            out.write_jsonl("rounds/001/predictions.jsonl", rows)
            mean = {"mean": 0.5, "low": 0.4, "high": 0.6, "count": 3}
            out.write_json("rounds/001/metrics.json", {"test": {"rougeL": mean}})

        self.commit(1, "evaluation", "rounds/001/metrics.json", evaluate)
        row = {"round": 1, "labels": 6, "dollars": 0.1, "seconds": {}, "metrics": {
            "rougeL": {"mean": 0.5, "low": 0.4, "high": 0.6, "count": 3}}}  # fmt: skip
        self.folder.write_json("metrics.json", [row])
        self.journal.append(self.lease, WARNING, payload={WARNING: f"odd row: {CANARY}"})
        self.journal.record_dead_letters(
            self.lease, 1, [DeadLetter(ID, "evaluation", f"cannot answer {CANARY}")]
        )
        self.folder.write_json("provider.json", {"provider": "p", "last_error": CANARY} | IDLE)
        self.journal.set_status(self.lease, "finished")
        publish_report(self.config, self.journal, self.folder, "done")
        root = Path(self.folder.root)
        for rel in (".steps/1-x/002-selection/rounds/002/features.parquet",
                    ".staging/9-dead/f00", "rounds/002/features.parts/0000/a.parquet",
                    "rounds/002/training-1-x/checkpoint-1/data.bin"):  # fmt: skip
            (root / rel).parent.mkdir(parents=True, exist_ok=True)
            (root / rel).write_text(CANARY)
        trash = root / ".trash/20260101T000000Z-1"
        trash.mkdir(parents=True)
        (trash / "labeled.jsonl").write_bytes((root / "labeled.jsonl").read_bytes())
        pq.write_table(self.folder.read_table("pool.parquet"), trash / "pool.parquet")
        self.lease.release()


PICKS = pa.schema([("id", pa.string()), ("rank", pa.int32()), ("score", pa.float64()),
                   ("parts", pa.map_(pa.string(), pa.float64()))])  # fmt: skip
IDLE = {"in_flight": 0, "waiting_until": None, "queue_full": False, "failing": False, "time": 1.0}


def _run_model(world: World, journal: Journal) -> None:
    hand = Hand(world, journal, make_config(world, MODEL_RUN))
    hand.read_pool()
    hand.embed()
    hand.select()
    context = hand.context()
    annotator = build_remote(hand.config.annotator, context, "annotator", QUICK)  # type: ignore[arg-type]
    picked = hand.folder.read_table("rounds/001/selection.parquet")["id"].to_pylist()
    labels, dead = annotator.annotate_batch(picked, [context.texts[id_] for id_ in picked])
    assert (len(labels), len(dead)) == (6, 0)
    journal.record_annotations(hand.lease, 1, labels)
    hand.finish()
    cache = ContentCache(world.storage, "outputs", {"model": "m"})
    rows = [{"content": row["content"], "text": f"says {row['text']}"} for row in make_rows("e", 8)]
    cache.add(pa.Table.from_pylist(rows), 1.0)


def _run_people(world: World, journal: Journal) -> None:
    people = {"type": "human", "settle_seconds": 0.0, "price_per_label": 0.5, "overlap": 1}
    hand = Hand(world, journal, make_config(world, PEOPLE_RUN, annotator=people))
    tokens = Tokens(journal.database)
    for label in (NAME, "ann", "lead"):
        caller = tokens.identify(tokens.create("annotator", label))
        assert caller is not None
        Sessions(journal.database).open(caller)
        who = Who(caller.id, label, "127.0.0.1")
        AuditLog(journal.database).append([Entry("page", "POST /submit", who, run=PEOPLE_RUN)])
    hand.read_pool()
    hand.embed()
    hand.select()
    context = hand.context()
    drafts = [
        TaskDraft(id_, context.texts[id_], {"text": f"draft of {text}", "source": "m", "round": 0},
                  {"strategy": "huds", "rank": 1, "score": 1.0, "parts": {}}, None,
                  [("beside", text)], None, {"beside": text})
        for id_, text in sorted(context.texts.items())[:6]
    ]  # fmt: skip
    round = TaskRound(hand.config.annotator, context)  # type: ignore[arg-type]
    round.publish_tasks(drafts)
    zaphod = Queue(journal, PEOPLE_RUN, NAME)
    for task in zaphod.lease(6):
        id_ = task["id"]
        zaphod.save_draft(id_, f"typing {task['input']}", 1)
        remark(journal, PEOPLE_RUN, id_, NAME, f"is it meant so: {task['input']}")
        zaphod.answer(uuid4().hex, id_, "submitted", f"my label of {task['input']}")
        zaphod.answer(uuid4().hex, id_, "submitted", f"my better label of {task['input']}")
    review_answer(journal, PEOPLE_RUN, ID, "lead", NAME, "corrected", f"right: {CANARY}", "no")
    lead = BulkActions(journal, world.storage, PEOPLE_RUN, NAME)
    lead.act(BulkRequest("assign", [ID, "e004"], who=(NAME,)))
    edit_guidelines(journal, PEOPLE_RUN, NAME, f"As in: {CANARY}", f"asked by {NAME}", 1)
    imported = ImportedLabel(f"imported of {CANARY}", "e006", None, NAME)
    bring_labels(journal, world.storage, PEOPLE_RUN, [imported])
    round.collect_labels()
    hand.finish()


def find_bytes(root: Path, needle: str) -> list[str]:
    """Every file below `root` that has the text, in any spelling, packed or not."""
    spelled = {needle, json.dumps(needle)[1:-1], json.dumps(needle, ensure_ascii=False)[1:-1]}
    words = {word.encode() for word in spelled}
    return [
        str(path.relative_to(root))
        for path in sorted(root.rglob("*"))
        if path.is_file() and any(word in part for part in _unpack(path) for word in words)
    ]


def _unpack(path: Path) -> Iterator[bytes]:
    content = path.read_bytes()
    yield content
    if path.suffix == ".parquet" and content[:4] == b"PAR1":
        yield json.dumps(pq.read_table(path).to_pylist(), default=str, ensure_ascii=False).encode()
    if content[:2] == b"PK":
        with zipfile.ZipFile(BytesIO(content)) as packed:
            yield from (packed.read(name) for name in packed.namelist())


def read_money(journal: Journal) -> dict[str, tuple[Any, ...]]:
    """What each run has paid and held."""
    with journal.database.reading() as connection:
        query = sa.text(
            "SELECT run, sum(coalesce(paid, held)) AS money FROM ledger GROUP BY run ORDER BY run"
        )
        return {row.run: tuple(row) for row in connection.execute(query)}
