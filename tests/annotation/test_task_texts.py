"""What tasks keep of their examples: the columns beside the input, and where the model's window
ends.
"""

from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa
from helpers.human_desk import HumanDesk

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.human.annotator import HumanAnnotator
from atgen_ray.config import HumanAnnotatorConfig
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.errors import RunStopped
from atgen_ray.core.progress import ProgressTracker
from atgen_ray.core.records import CONTEXT_SCHEMA
from atgen_ray.data.in_process import reading_in_process
from atgen_ray.runs.controller import Controller
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import tasks


def test_tasks_keep_columns_and_the_end_of_the_window(tiny_model: str, tmp_path: Path) -> None:
    journal = Journal(f"sqlite:///{tmp_path / 'atgen.db'}")
    desk = HumanDesk(journal, 0)
    long = "many words " * 100
    desk.texts = {"e00": "short", "e01": long}
    model = desk.config.model.model_copy(update={"id": tiny_model, "max_prompt_tokens": 80})
    desk.config = desk.config.model_copy(update={"model": model})
    folder = RunFolder(str(tmp_path), desk.run)
    rows = [{"id": "e01", "context": '{"b": "second", "a": "first"}'}]
    folder.write_table("context.parquet", pa.Table.from_pylist(rows, CONTEXT_SCHEMA))

    def stop(done: int, total: int) -> None:
        raise RunStopped("stopped on request")

    lease = journal.acquire(desk.run, ProcessIdentity("controller"), 600)
    site = AnnotationContext(desk.config, journal, lease, folder, 1, desk.texts, (), stop)
    assert isinstance(desk.config.annotator, HumanAnnotatorConfig)
    with pytest.raises(RunStopped):
        HumanAnnotator(desk.config.annotator, site).annotate_batch(
            [*desk.texts], [*desk.texts.values()]
        )
    with journal.database.reading() as connection:
        query = sa.select(tasks.c.context, tasks.c.window).order_by(tasks.c.example_id)
        (none, whole), (beside, window) = connection.execute(query).all()
    assert (none, whole) == (None, None)
    assert beside == [["b", "second"], ["a", "first"]]
    assert window is not None
    assert 100 < window < len(long)
    journal.close()


def test_a_run_keeps_the_columns_beside_the_input(tiny_model: str, tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(f'{{"q": "question {n}", "title": "T{n}"}}\n' for n in range(5)))
    data = {"pool": str(pool), "input": "q", "context": ["title"]}
    tree = {"name": "kept", "data": data, "model": {"id": tiny_model}}
    config = parse_config(tree | {"annotator": {"type": "human"}})
    journal = Journal(f"sqlite:///{tmp_path / 'atgen.db'}")
    journal.create_run(config.name, dump_config(config), "")
    lease = journal.acquire(config.name, ProcessIdentity("controller"), 600)
    folder = RunFolder(str(tmp_path), config.name)
    with reading_in_process():
        Controller(
            config, journal, lease, folder, ProgressTracker(), lambda done, total: None
        ).pool.prepare()
    ids = folder.read_table("pool.parquet", ["id"])["id"].to_pylist()
    kept = folder.read_table("context.parquet").to_pylist()
    titles = [f'{{"title": "T{n}"}}' for n in range(5)]
    # Shown beside the input, and looked for in the list of tasks.
    assert kept == [
        {"id": id_, "context": title, "fields": title}
        for id_, title in zip(ids, titles, strict=True)
    ]
    journal.close()
