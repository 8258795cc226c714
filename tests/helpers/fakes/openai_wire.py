"""OpenAI's wire: chat completions, files and batches, as
https://platform.openai.com/docs/api-reference has them.
"""

import json
import random
import time
from typing import Any

from oddities import bend_usage, cut_lines, drop_missing, spoil_row
from state import State

FLOW = ["validating", "in_progress", "finalizing"]
CODES = {"expired": "batch_expired", "cancelled": "batch_cancelled", "completed": "request_timeout"}


def complete(state: State, body: dict[str, Any]) -> dict[str, Any]:
    metadata = body.get("metadata") or {}
    answer = _answer(state, metadata.get("atgen_request", ""), body)
    if body.get("store"):
        state.put("stored", answer["id"], answer | {"metadata": metadata})
    return answer


def list_stored(state: State, query: dict[str, Any]) -> dict[str, Any]:
    wanted = {name[9:-1]: value for name, value in query.items() if name.startswith("metadata[")}
    rows = [row for row in state.all("stored") if wanted.items() <= row["metadata"].items()]
    return {"object": "list", "data": rows[: int(query.get("limit", 20))], "has_more": False}


def upload(state: State, form: dict[str, Any]) -> dict[str, Any]:
    id = f"file-{state.number()}"
    state.put("file", id, form["file"])
    return {
        "id": id,
        "object": "file",
        "bytes": len(form["file"]),
        "created_at": int(time.time()),
    } | {
        "filename": "batch.jsonl",
        "purpose": form["purpose"],
        "status": "processed",
    }


def download(state: State, query: dict[str, Any]) -> str:
    return cut_lines(state.settings, str(state.get("file", query["file"])))


def show_file(state: State, query: dict[str, Any]) -> dict[str, Any]:
    size = len(str(state.get("file", query["file"])))
    return {"id": query["file"], "object": "file", "bytes": size}


def delete_file(state: State, query: dict[str, Any]) -> dict[str, Any]:
    state.delete("file", query["file"])
    return {"id": query["file"], "object": "file", "deleted": True}


def show_stored(state: State, query: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = state.get("stored", query["completion"])
    return found


def delete_stored(state: State, query: dict[str, Any]) -> dict[str, Any]:
    state.delete("stored", query["completion"])
    return {"id": query["completion"], "object": "chat.completion.deleted", "deleted": True}


def create_batch(state: State, body: dict[str, Any]) -> dict[str, Any]:
    lines = [json.loads(line) for line in state.get("file", body["input_file_id"]).splitlines()]
    ids = [line["custom_id"] for line in lines]
    assert len(ids) == len(set(ids)), "custom_id stands twice"
    settings = state.settings
    failed = settings["ending"] == "failed"
    failure = settings["failure"]
    queued = sum(
        batch["request_counts"]["total"]
        for batch in state.all("batch")
        if batch["step"] <= batch["polls"] and batch["ending"] != "failed"
    )
    if settings["queue"] is not None and queued + len(lines) > settings["queue"]:
        failed, failure = True, ["token_limit_exceeded", "Enqueued token limit reached"]
    done = [] if failed else lines[: round(len(lines) * settings["share"])]
    good = [
        {"id": "r", "custom_id": line["custom_id"], "error": None}
        | {
            "response": {
                "status_code": 200,
                "request_id": "r",
                "body": _answer(state, line["custom_id"], line["body"]),
            }
        }
        for line in done
    ]
    code = settings["row_error"] or CODES.get(settings["ending"], "")
    bad = [
        spoil_row(
            settings,
            {
                "id": "r",
                "custom_id": line["custom_id"],
                "response": None,
                "error": {"code": code, "message": code},
            },
        )
        for line in lines[len(done) :]
    ]
    random.Random(0).shuffle(good)
    id = f"batch_{state.number()}"
    batch = {
        "id": id, "object": "batch", "endpoint": body["endpoint"], "completion_window": "24h",
        "input_file_id": body["input_file_id"], "created_at": int(time.time()), "metadata": body.get("metadata"),
        "ending": "failed" if failed else settings["ending"], "step": 0, "cancelling": False,
        "polls": 0 if failed else settings["polls"],
        "hide": settings["hide"],
        "request_counts": {"total": len(lines), "completed": len(good), "failed": len(bad)},
        "output_file_id": None, "error_file_id": None,
        "errors": {"object": "list", "data": [dict(zip(("code", "message"), failure, strict=True))]}
        if failed else None,
    }  # fmt: skip
    if not failed:
        for name, rows in (("output", good), ("error", bad)):
            if rows:
                broken = "{not json\n" * (settings["broken_lines"] if name == "output" else 0)
                kept = rows[settings["broken_lines"] :] if name == "output" else rows
                state.put(
                    "file", f"{id}-{name}", broken + "".join(json.dumps(row) + "\n" for row in kept)
                )
                batch[f"{name}_file_id"] = f"{id}-{name}"
    state.put("batch", id, batch)
    state.spend_once()
    return _show(state, batch)


def get_batch(state: State, query: dict[str, Any]) -> dict[str, Any]:
    batch = state.get("batch", query["batch"])
    if len(state.all("batch")) >= state.settings["company"]:
        batch["step"] += 1
    state.put("batch", batch["id"], batch)
    return _show(state, batch)


def cancel_batch(state: State, query: dict[str, Any]) -> dict[str, Any]:
    batch = state.get("batch", query["batch"])
    batch |= {"cancelling": True, "ending": "cancelled", "polls": batch["step"] + 1}
    state.put("batch", batch["id"], batch)
    return _show(state, batch)


def list_batches(state: State, query: dict[str, Any]) -> dict[str, Any]:
    shown = []
    for batch in state.all("batch"):
        batch["hide"] -= 1
        state.put("batch", batch["id"], batch)
        shown += [_show(state, batch)] if batch["hide"] < 0 else []
    return {"object": "list", "data": shown, "has_more": False}


def _show(state: State, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch as it stands after so many looks."""
    stuck = state.settings["stuck"]
    if batch["cancelling"] and (stuck == "cancelling" or batch["step"] <= batch["polls"]):
        status = "cancelling"
    elif stuck in FLOW and not batch["cancelling"]:
        status = stuck
    elif batch["step"] <= batch["polls"]:
        status = FLOW[min(batch["step"], len(FLOW) - 1)]
    else:
        status = batch["ending"]
    files = {} if status == batch["ending"] else {"output_file_id": None, "error_file_id": None}
    if batch["step"] <= batch["polls"] + state.settings["late_file"]:
        files = {"output_file_id": None}
    return batch | files | {"status": status}


def _answer(state: State, custom_id: str, body: dict[str, Any]) -> dict[str, Any]:
    system, *turns = body["messages"]
    limit = body.get("max_tokens") or body.get("max_completion_tokens")
    said = state.answer(custom_id, system["content"], turns, limit)
    message = {"role": "assistant", "content": said["text"], "refusal": None}
    names = ("prompt_tokens", "completion_tokens")
    return drop_missing(state.settings, {
        "id": said["id"], "object": "chat.completion", "created": int(time.time()), "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": said["finish"], "logprobs": None}],
        "usage": bend_usage(state.settings, said["prompt"], said["output"], names),
    })  # fmt: skip


ROUTES = {
    "POST /v1/chat/completions": complete,
    "GET /v1/chat/completions": list_stored,
    "GET /v1/chat/completions/{completion}": show_stored,
    "DELETE /v1/chat/completions/{completion}": delete_stored,
    "POST /v1/files": upload,
    "GET /v1/files/{file}": show_file,
    "DELETE /v1/files/{file}": delete_file,
    "GET /v1/files/{file}/content": download,
    "POST /v1/batches": create_batch,
    "GET /v1/batches": list_batches,
    "GET /v1/batches/{batch}": get_batch,
    "POST /v1/batches/{batch}/cancel": cancel_batch,
}
