"""An S3 store on this machine that can be told to fail: moto behind a door that answers badly now
and then.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

KEYS = {
    "aws_access_key_id": "test",
    "aws_secret_access_key": "s3-canary",
    "region_name": "us-east-1",
}
Answer = Iterable[bytes]
ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>as ordered</Message></Error>"
# What S3 says when it is overloaded or broken; the last is sent after the work was done.
ANSWERS = [
    ("503 Slow Down", "SlowDown"),
    ("500 Broken", "InternalError"),
    ("500 After", "InternalError"),
]


@dataclass
class ObjectStore:
    """A bucket, and how often its store fails."""

    url: str
    bucket: str
    failing: float = 0.0  # share of requests
    refusing: bool = False  # all writes: access denied
    delay: float = 0.0  # seconds before a request is looked at, twice as long at most
    delayed: int = 0  # requests that have begun to wait
    stop: Callable[[], None] = lambda: None
    answers: "Counter[str]" = field(default_factory=Counter)
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    @property
    def environment(self) -> dict[str, str]:
        """What clients find the store by."""
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "s3-canary"}
        return keys | {"AWS_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": "us-east-1"}

    def download(self, folder: Path) -> None:
        """All that is in the bucket, to `folder`."""
        client = boto3.client("s3", endpoint_url=self.url, **KEYS)
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for item in page.get("Contents", []):
                if item["Key"].endswith("/"):
                    continue  # marks a folder
                path = folder / item["Key"]
                path.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(self.bucket, item["Key"], str(path))

    def upload(self, folder: Path, prefix: str) -> None:
        """The files directly in `folder`, below `prefix` in the bucket."""
        client = boto3.client("s3", endpoint_url=self.url, **KEYS)
        for path in folder.iterdir():
            if path.is_file():
                client.upload_file(str(path), self.bucket, f"{prefix}/{path.name}")

    def wrap(self, application: Callable[..., Answer]) -> Callable[..., Answer]:
        """The store behind the door."""

        def door(request: dict[str, Any], start: Callable[..., Any]) -> Answer:
            method = request["REQUEST_METHOD"]
            if delay := self.delay * self.chance.uniform(1, 2):
                self.delayed += 1
                time.sleep(delay)
            if self.refusing and method in ("PUT", "POST", "DELETE"):
                return self._refuse(start, method, "403 Forbidden", "AccessDenied")
            if self.chance.random() >= self.failing:
                self.answers["well"] += 1
                return application(request, start)
            status, code = self.chance.choice(ANSWERS)
            if status == "500 After":
                list(application(request, lambda *_: None))
            return self._refuse(start, method, status, code)

        return door

    def _refuse(self, start: Callable[..., Any], method: str, status: str, code: str) -> Answer:
        self.answers[status] += 1
        body = b"" if method == "HEAD" else ERROR.format(code=code).encode()
        headers = [("Content-Type", "application/xml"), ("Content-Length", f"{len(body)}")]
        start(status, headers)
        return [body]


@contextmanager
def run_object_store() -> Iterator[ObjectStore]:
    """A store with an empty bucket, on a free port."""
    store = ObjectStore("", f"bucket-{uuid4().hex[:8]}")
    application = store.wrap(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    store.url, store.stop = f"http://127.0.0.1:{server.server_port}", stop
    boto3.client("s3", endpoint_url=store.url, **KEYS).create_bucket(Bucket=store.bucket)
    try:
        yield store
    finally:
        stop()
        thread.join()
