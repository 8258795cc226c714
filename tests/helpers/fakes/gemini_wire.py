"""Gemini's wire of batch jobs, as https://ai.google.dev/api/batch-api has it, and its compatible
endpoint for single requests.
"""

import random
from datetime import UTC, datetime
from typing import Any

import openai_wire
from state import State

ENDINGS = {
    "completed": "SUCCEEDED",
    "expired": "EXPIRED",
    "cancelled": "CANCELLED",
    "failed": "FAILED",
}
CODES = {"api_error": 13, "billing_error": "billing_error", "invalid_request_error": 3}
FINISHES = {"stop": "STOP", "length": "MAX_TOKENS"}


def create_job(state: State, body: dict[str, Any]) -> dict[str, Any]:
    assert body["call"].endswith(":batchGenerateContent")
    batch = body["batch"]
    requests = batch["inputConfig"]["requests"]["requests"]
    keys = [request["metadata"]["key"] for request in requests]
    assert len(keys) == len(set(keys)), "a key stands twice"
    settings = state.settings
    ending = ENDINGS[settings["ending"]]
    # Only a job that succeeded keeps responses; the others bill none.
    done = requests[: round(len(requests) * settings["share"])] if ending == "SUCCEEDED" else []
    code = settings["row_error"]
    rows = [
        {"metadata": one["metadata"], "response": answer(state, one)}
        for one in done[settings["broken_lines"] :]
    ]
    for one in done[: settings["broken_lines"]]:  # billed, and not to be read
        answer(state, one)
    if code:
        fault = {"code": CODES[code], "message": code}
        rows += [{"metadata": o["metadata"], "error": fault} for o in requests[len(done) :]]
    random.Random(0).shuffle(rows)
    id = f"batches/{state.number()}"
    job = {
        "name": id, "displayName": batch["displayName"], "created": datetime.now(UTC).isoformat(),
        "ending": ending, "polls": settings["polls"], "step": 0, "hide": settings["hide"],
        "rows": rows, "size": len(requests), "good": len(done),
        "message": settings["failure"][1], "cancelling": False,
    }  # fmt: skip
    state.put("gemini", id, job)
    state.spend_once()
    return show(state, job)


def answer(state: State, request: dict[str, Any]) -> dict[str, Any]:
    body = request["request"]
    system = body["systemInstruction"]["parts"][0]["text"]
    turns = [{"content": turn["parts"][0]["text"]} for turn in body["contents"]]
    assert [turn["role"] for turn in body["contents"]][-1] == "user"
    limit = body["generationConfig"]["maxOutputTokens"]
    said = state.answer(request["metadata"]["key"], system, turns, limit)
    thought = {"text": "let me see", "thought": True}
    return {
        "candidates": [
            {
                "content": {"role": "model", "parts": [thought, {"text": said["text"]}]},
                "finishReason": FINISHES[said["finish"]],
                "index": 0,
            }
        ],
        "usageMetadata": {
            "promptTokenCount": said["prompt"],
            "candidatesTokenCount": said["output"] - 1,
            "thoughtsTokenCount": 1,
            "totalTokenCount": said["prompt"] + said["output"],
        },
        "modelVersion": "fake",
    }


def get_job(state: State, query: dict[str, Any]) -> dict[str, Any]:
    job = state.get("gemini", f"batches/{query['batch']}")
    job["step"] += 1
    state.put("gemini", job["name"], job)
    return show(state, job)


def cancel_job(state: State, query: dict[str, Any]) -> dict[str, Any]:
    id, _, verb = query["call"].partition(":")
    assert verb == "cancel"
    job = state.get("gemini", f"batches/{id}")
    job |= {"ending": "CANCELLED", "rows": [], "good": 0, "polls": job["step"] + 1}
    state.put("gemini", job["name"], job)
    return {}


def delete_job(state: State, query: dict[str, Any]) -> dict[str, Any]:
    state.delete("gemini", f"batches/{query['batch']}")
    return {}


def list_jobs(state: State, query: dict[str, Any]) -> dict[str, Any]:
    shown = []
    for job in state.all("gemini"):
        if job["hide"] > 0:
            job["hide"] -= 1
            state.put("gemini", job["name"], job)
        else:  # unchanged, so that the order stays
            shown.append(show(state, job))
    first = int(query.get("pageToken", 0))
    end = first + int(query["pageSize"])
    more = {"nextPageToken": str(end)} if end < len(shown) else {}
    return {"operations": shown[first:end], **more}


def show(state: State, job: dict[str, Any]) -> dict[str, Any]:
    """The job as it stands after so many looks."""
    stuck = state.settings["stuck"]
    waits = job["step"] <= job["polls"]
    word = stuck or ("RUNNING" if job["step"] else "PENDING") if stuck or waits else job["ending"]
    about = {
        "model": "models/fake",
        "displayName": job["displayName"],
        "createTime": job["created"],
        "state": f"BATCH_STATE_{word}",
        "batchStats": {"requestCount": str(job["size"])},
    }
    ended = word == job["ending"]
    if ended and job["good"]:
        about["batchStats"] |= {"successfulRequestCount": str(job["good"])}
    value: dict[str, Any] = {"name": job["name"], "metadata": about}
    if ended and word == "SUCCEEDED":
        inlined = {"inlinedResponses": {"inlinedResponses": job["rows"]}}
        value |= {"done": True, "response": inlined}
    elif ended and word == "FAILED":
        value |= {"done": True, "error": {"code": 3, "message": job["message"]}}
    return value


ROUTES = {
    "POST /v1beta/openai/chat/completions": openai_wire.complete,
    "POST /v1beta/models/{call}": create_job,
    "GET /v1beta/batches": list_jobs,
    "GET /v1beta/batches/{batch}": get_job,
    "DELETE /v1beta/batches/{batch}": delete_job,
    "POST /v1beta/batches/{call}": cancel_job,
}
