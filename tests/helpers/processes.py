"""Processes that a test kills: each is forked from one server that has imported what they need.

All tests share the server, since the standard library keeps one for a process, with one list of
what it imports: of two lists the last one would count, which is that of any module that pytest
happens to collect later.
"""

import multiprocessing

PROCESSES = multiprocessing.get_context("forkserver")
# A process would import these only once it works, and would spend most of its time on them.
PROCESSES.set_forkserver_preload(
    [
        "alembic.command",
        "anthropic",
        "atgen_ray.annotation.llm.annotator",
        "atgen_ray.annotation.providers.anthropic",
        "atgen_ray.annotation.providers.gemini",
        "atgen_ray.annotation.providers.mistral",
        "atgen_ray.annotation.providers.openai",
        "atgen_ray.annotation.providers.openai_batch",
        "atgen_ray.runs.controller",
        "atgen_ray.store.journal",
        "atgen_ray.store.run_folder",
        "httpx",
        "openai.resources.batches",
        "openai.resources.chat",
        "openai.resources.files",
        "psycopg",
        "pytest",
        "s3fs",
        "sqlalchemy.dialects.postgresql.psycopg",
        "sqlalchemy.dialects.sqlite.pysqlite",
    ]
)
