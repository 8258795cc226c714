"""Anthropic's wire: messages and message batches, as https://docs.anthropic.com/en/api has them."""

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from oddities import bend_usage, cut_lines, drop_missing
from state import State

STOPS = {"stop": "end_turn", "length": "max_tokens"}
KINDS = {"expired": "expired", "cancelled": "canceled"}


def create_message(state: State, body: dict[str, Any]) -> dict[str, Any]:
    return _answer(state, "", body)


def create_batch(state: State, body: dict[str, Any]) -> dict[str, Any]:
    requests, settings = body["requests"], state.settings
    ids = [request["custom_id"] for request in requests]
    assert len(ids) == len(set(ids)), "custom_id stands twice"
    assert all(len(id) <= 64 and id.replace("-", "").replace("_", "").isalnum() for id in ids)
    done = requests[: round(len(requests) * settings["share"])]
    rows = [
        {"custom_id": one["custom_id"]}
        | {
            "result": {
                "type": "succeeded",
                "message": _answer(state, one["custom_id"], one["params"]),
            }
        }
        for one in done
    ]
    error = settings["row_error"]
    kind = "errored" if error else KINDS.get(settings["ending"], "expired")
    detail = (
        {"error": {"type": "error", "error": {"type": error, "message": error}}} if error else {}
    )
    rest = requests[len(done) :]
    rows += [{"custom_id": one["custom_id"], "result": {"type": kind, **detail}} for one in rest]
    random.Random(0).shuffle(rows)
    id = f"msgbatch_{state.number()}"
    broken = "{not json\n" * settings["broken_lines"]
    kept = [row for row in rows if row["result"]["type"] != "succeeded"]
    good = [row for row in rows if row["result"]["type"] == "succeeded"][settings["broken_lines"] :]
    state.put("results", id, broken + "".join(json.dumps(row) + "\n" for row in good + kept))
    counts = {"processing": 0, "succeeded": len(done), "errored": 0, "canceled": 0, "expired": 0}
    counts[kind] += len(rest)
    now = datetime.now(UTC)
    batch = {
        "id": id, "type": "message_batch", "created_at": now.isoformat(),
        "expires_at": (now + timedelta(days=1)).isoformat(), "counts": counts, "size": len(requests),
        "step": 0, "polls": settings["polls"], "cancelling": False, "hide": settings["hide"],
    }  # fmt: skip
    state.put("msgbatch", id, batch)
    state.spend_once()
    return _show(state, batch)


def get_batch(state: State, query: dict[str, Any]) -> dict[str, Any]:
    batch = state.get("msgbatch", query["batch"])
    batch["step"] += 1
    state.put("msgbatch", batch["id"], batch)
    return _show(state, batch)


def cancel_batch(state: State, query: dict[str, Any]) -> dict[str, Any]:
    batch = state.get("msgbatch", query["batch"])
    batch |= {"cancelling": True, "polls": batch["step"] + 1}
    state.put("msgbatch", batch["id"], batch)
    return _show(state, batch)


def delete_batch(state: State, query: dict[str, Any]) -> dict[str, Any]:
    state.delete("msgbatch", query["batch"])
    return {"id": query["batch"], "type": "message_batch_deleted"}


def list_batches(state: State, query: dict[str, Any]) -> dict[str, Any]:
    shown = []
    for batch in state.all("msgbatch"):
        batch["hide"] -= 1
        batch["step"] += 1  # time goes by
        state.put("msgbatch", batch["id"], batch)
        shown += [_show(state, batch)] if batch["hide"] < 0 else []
    return {"data": shown, "has_more": False, "first_id": None, "last_id": None}


def results(state: State, query: dict[str, Any]) -> str:
    return cut_lines(state.settings, str(state.get("results", query["batch"])))


def _show(state: State, batch: dict[str, Any]) -> dict[str, Any]:
    stuck = state.settings["stuck"]
    ended = batch["step"] > batch["polls"]
    if batch["cancelling"]:
        status = "canceling" if stuck == "canceling" or not ended else "ended"
    else:
        status = "in_progress" if stuck == "in_progress" or not ended else "ended"
    size = batch["size"]
    waiting = {"processing": size, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    url = f"/v1/messages/batches/{batch['id']}/results" if status == "ended" else None
    kept = {name: batch[name] for name in ("id", "type", "created_at", "expires_at")}
    return (
        kept
        | {"processing_status": status, "results_url": url, "ended_at": None}
        | {"request_counts": batch["counts"] if status == "ended" else waiting}
    )


def _answer(state: State, custom_id: str, body: dict[str, Any]) -> dict[str, Any]:
    said = state.answer(custom_id, body["system"], body["messages"], body["max_tokens"])
    names = ("input_tokens", "output_tokens")
    return drop_missing(state.settings, {
        "id": said["id"], "type": "message", "role": "assistant", "model": body["model"],
        "content": [{"type": "text", "text": said["text"]}], "stop_reason": STOPS[said["finish"]],
        "stop_sequence": None, "usage": bend_usage(state.settings, said["prompt"], said["output"], names),
    })  # fmt: skip


ROUTES = {
    "POST /v1/messages": create_message,
    "POST /v1/messages/batches": create_batch,
    "GET /v1/messages/batches": list_batches,
    "GET /v1/messages/batches/{batch}": get_batch,
    "DELETE /v1/messages/batches/{batch}": delete_batch,
    "POST /v1/messages/batches/{batch}/cancel": cancel_batch,
    "GET /v1/messages/batches/{batch}/results": results,
}
