"""Azure OpenAI's wire of files and batch jobs, where it differs from OpenAI's:
https://learn.microsoft.com/azure/foundry/openai/how-to/batch and its reference of the REST API.

A file is pending before a job can read it, jobs tell no metadata, states begin with a capital,
times are texts, counts are null until the end, and a job that ended names both files, one of which
may be empty. Files and jobs belong to the resource, not to a deployment.
"""

from datetime import UTC, datetime
from typing import Any

import openai_wire
from state import State

PENDING = 2  # looks at a new file before a job can read it


def upload(state: State, form: dict[str, Any]) -> dict[str, Any]:
    file = openai_wire.upload(state, form) | {"status": "pending"}
    state.put("azure file", file["id"], file | {"filename": form["file name"], "looks": 0})
    return file


def get_file(state: State, query: dict[str, Any]) -> dict[str, Any]:
    state.get("file", query["file"])
    try:
        file = state.get("azure file", query["file"])
    except LookupError:  # of results
        return {"id": query["file"], "object": "file", "status": "processed"}
    file["looks"] += 1
    state.put("azure file", file["id"], file)
    return file | {"status": "pending" if file["looks"] <= PENDING else "processed"}


def create_batch(state: State, body: dict[str, Any]) -> dict[str, Any]:
    assert body["endpoint"] == "/chat/completions"
    file = state.get("azure file", body["input_file_id"])
    assert file["looks"] > PENDING, "a job of a file that is not processed"
    return bend(state, openai_wire.create_batch(state, body))


def list_batches(state: State, query: dict[str, Any]) -> dict[str, Any]:
    page = openai_wire.list_batches(state, query)
    return page | {"data": [bend(state, batch) for batch in page["data"]]}


def bend(state: State, batch: dict[str, Any]) -> dict[str, Any]:
    """A batch of OpenAI as Azure shows it."""
    created = datetime.fromtimestamp(batch["created_at"], UTC).isoformat()
    status = batch["status"]
    files = {}
    counts = batch["request_counts"]
    if status == batch["ending"]:
        for name in ("output_file_id", "error_file_id"):
            if batch[name] is None and state.settings["late_file"] == 0:
                files[name] = f"{batch['id']}-{name}"
                if files[name] not in state.all("azure empty"):
                    state.put("azure empty", files[name], files[name])
                    state.put("file", files[name], "")
    else:
        counts = dict.fromkeys(counts)
    if status == "failed":
        counts = counts | {"completed": None, "failed": None}
    return (
        batch
        | files
        | {"created_at": created, "status": status.capitalize(), "metadata": None}
        | {"request_counts": counts}
    )


def get_batch(state: State, query: dict[str, Any]) -> dict[str, Any]:
    return bend(state, openai_wire.get_batch(state, query))


def cancel_batch(state: State, query: dict[str, Any]) -> dict[str, Any]:
    return bend(state, openai_wire.cancel_batch(state, query))


# With the v1 address, and with an api-version.
ROUTES = {
    f"{verb} {root}{path}": serve
    for root in ("/openai/v1", "/openai")
    for verb, path, serve in (
        ("POST", "/files", upload),
        ("GET", "/files/{file}", get_file),
        ("DELETE", "/files/{file}", openai_wire.delete_file),
        ("GET", "/files/{file}/content", openai_wire.download),
        ("POST", "/batches", create_batch),
        ("GET", "/batches", list_batches),
        ("GET", "/batches/{batch}", get_batch),
        ("POST", "/batches/{batch}/cancel", cancel_batch),
    )
}
