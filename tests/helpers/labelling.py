"""People who label over HTTP."""

import time
from typing import Any
from uuid import uuid4


def label(client: Any, name: str, count: int) -> list[dict[str, Any]]:
    """Labels `count` tasks as they come up."""
    done: list[dict[str, Any]] = []
    deadline = time.monotonic() + 600
    while len(done) < count and time.monotonic() < deadline:
        answer = client.post(
            f"/api/v1/runs/{name}/tasks/lease", json={"count": min(5, count - len(done))}
        )
        for task in answer.json().get("tasks", []) if answer.status_code == 200 else []:
            body = {"text": f"label of {task['id']}", "seconds": 1.5}
            headers = {"Idempotency-Key": uuid4().hex}
            sent = client.post(
                f"/api/v1/runs/{name}/tasks/{task['id']}/submit", json=body, headers=headers
            )
            assert sent.status_code == 200, sent.text
            done.append(task)
        time.sleep(0.2)
    return done
