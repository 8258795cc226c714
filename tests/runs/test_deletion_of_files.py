"""A person who is deleted leaves the files, jobs and batches of the OpenAI-compatible API; a file
leaves with its row.
"""

import json
from pathlib import Path

import sqlalchemy as sa

from atgen_ray.runs.deletion import Target, delete
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.api_files import ApiFiles
from atgen_ray.store.batches import Batches
from atgen_ray.store.housekeeping import remove_run
from atgen_ray.store.journal import open_journal
from atgen_ray.store.tables import (
    api_files,
    batches,
    trained_usage,
    tuning_jobs,
    uploads,
    usage,
)
from atgen_ray.store.tuning_jobs import TuningJobs
from atgen_ray.store.usage import Spent, add_usage

PERSON = "Carol Canary"


def test_a_person_and_a_file_leave_every_table(tmp_path: Path) -> None:
    journal = open_journal(str(tmp_path), None)
    Tokens(journal.database).create("admin", PERSON)
    content = tmp_path / "rows.jsonl"
    content.write_text("{}\n")
    files = ApiFiles(journal, str(tmp_path))
    file = files.add(content, f"rows of {PERSON}.jsonl", "batch", 1, PERSON)
    asked = {"metadata": {"for": f"what {PERSON} wants"}}
    Batches(journal).enter(PERSON, "token", None, asked, 1)
    run = journal.create_run("ft-0123456789ab", {}, "").name
    TuningJobs(journal).enter("ftjob-0123456789ab", PERSON, None, run, asked, {})
    add_usage(journal.database, {(PERSON, "tiny", 20_000): Spent(1, 2, 3)})
    trained = {"job": "j", "round": 1, "by": PERSON, "model": "m", "day": 1, "tokens": 1, "nano": 1}
    with journal.database.writing() as connection:
        connection.execute(sa.insert(trained_usage).values(trained))

    def read() -> str:
        with journal.database.reading() as connection:
            tables = (api_files, batches, trained_usage, tuning_jobs, uploads, usage)
            rows = [connection.execute(sa.select(table)).mappings().all() for table in tables]
        return json.dumps([[dict(row) for row in table] for table in rows])

    assert read().count(PERSON) == 9
    delete(journal, str(tmp_path), Target("person", (PERSON,)), "root", False)
    assert PERSON not in read()
    delete(journal, str(tmp_path), Target("upload", (file.upload,)), "root", False)
    assert files.find(file.id, None) is None
    assert not list((tmp_path / "uploads").iterdir())
    remove_run(journal, str(tmp_path), run)
    assert TuningJobs(journal).list(None) == []
