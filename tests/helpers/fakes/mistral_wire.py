"""Mistral's wire of batch jobs, as https://docs.mistral.ai/api/#tag/batch and its SDK have them; files
and chat completions are as OpenAI's.
"""

import json
import random
import time
from typing import Any

import openai_wire
from state import State

ENDINGS = {
    "completed": "SUCCESS",
    "expired": "TIMEOUT_EXCEEDED",
    "cancelled": "CANCELLED",
    "failed": "FAILED",
}


def create_job(state: State, body: dict[str, Any]) -> dict[str, Any]:
    known = {"input_files", "endpoint", "model", "metadata", "timeout_hours"}
    assert body.keys() <= known, f"unknown keys: {body.keys() - known}"
    assert body["endpoint"] == "/v1/chat/completions"
    (file,) = body["input_files"]
    lines = [json.loads(line) for line in state.get("file", file).splitlines()]
    assert all(line.keys() == {"custom_id", "body"} for line in lines)
    assert len({line["custom_id"] for line in lines}) == len(lines), "custom_id stands twice"
    settings = state.settings
    failed = settings["ending"] == "failed"
    done = [] if failed else lines[: round(len(lines) * settings["share"])]
    good = [
        {"id": "r", "custom_id": line["custom_id"], "error": None}
        | {"response": {"status_code": 200, "body": answer(state, line, body["model"])}}
        for line in done
    ]
    code = settings["row_error"]
    fault = {"object": "error", "message": code, "type": code, "code": code}
    bad = [
        {"id": "r", "custom_id": line["custom_id"], "error": None}
        | {"response": {"status_code": 422, "body": fault}}
        for line in (lines[len(done) :] if code else [])
    ]
    random.Random(0).shuffle(good)
    id = f"job-{state.number()}"
    job = {
        "id": id, "object": "batch", "input_files": [file], "endpoint": body["endpoint"],
        "model": body["model"], "metadata": body.get("metadata"), "created_at": int(time.time()),
        "ending": ENDINGS[settings["ending"]], "polls": settings["polls"], "step": 0,
        "cancelling": False, "hide": settings["hide"], "total_requests": len(lines),
        "completed_requests": len(good) + len(bad), "succeeded_requests": len(good),
        "failed_requests": len(bad), "output_file": None, "error_file": None,
        "errors": [{"message": settings["failure"][1], "count": 1}] if failed else [],
    }  # fmt: skip
    for name, rows in (("output_file", good), ("error_file", bad)):
        if rows:
            hurt = settings["broken_lines"] if name == "output_file" else 0
            text = "{not json\n" * hurt + "".join(json.dumps(row) + "\n" for row in rows[hurt:])
            state.put("file", f"{id}-{name}", text)
            job[name] = f"{id}-{name}"
    state.put("job", id, job)
    state.spend_once()
    return show(state, job)


def answer(state: State, line: dict[str, Any], model: str) -> dict[str, Any]:
    body = line["body"] | {"model": model, "metadata": {"atgen_request": line["custom_id"]}}
    assert "max_completion_tokens" not in body
    return openai_wire.complete(state, body)


def get_job(state: State, query: dict[str, Any]) -> dict[str, Any]:
    job = state.get("job", query["batch"])
    job["step"] += 1
    state.put("job", job["id"], job)
    return show(state, job)


def cancel_job(state: State, query: dict[str, Any]) -> dict[str, Any]:
    job = state.get("job", query["batch"])
    job |= {"cancelling": True, "ending": "CANCELLED", "polls": job["step"] + 1}
    state.put("job", job["id"], job)
    return show(state, job)


def list_jobs(state: State, query: dict[str, Any]) -> dict[str, Any]:
    assert query["order_by"] == "-created"
    shown = []
    for job in state.all("job"):
        if job["hide"] > 0:
            job["hide"] -= 1
            state.put("job", job["id"], job)
        else:  # unchanged, so that the order stays
            shown.append(show(state, job))
    first = int(query["page"]) * int(query["page_size"])
    page = shown[first : first + int(query["page_size"])]
    return {"object": "list", "data": page, "total": len(shown)}


def show(state: State, job: dict[str, Any]) -> dict[str, Any]:
    """The job as it stands after so many looks."""
    stuck = state.settings["stuck"]
    waits = job["step"] <= job["polls"]
    if job["cancelling"] and (stuck == "CANCELLATION_REQUESTED" or waits):
        status = "CANCELLATION_REQUESTED"
    elif not job["cancelling"] and (stuck or waits):
        status = stuck or ("RUNNING" if job["step"] else "QUEUED")
    else:
        status = job["ending"]
    ended = status == job["ending"]
    return job | ({} if ended else {"output_file": None, "error_file": None}) | {"status": status}


ROUTES = {
    "POST /v1/batch/jobs": create_job,
    "GET /v1/batch/jobs": list_jobs,
    "GET /v1/batch/jobs/{batch}": get_job,
    "POST /v1/batch/jobs/{batch}/cancel": cancel_job,
}
