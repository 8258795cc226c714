"""A stand-in for what the Hugging Face hub does for those who write: repositories are made, files
come as a commit, and weights by LFS. Its protocol over a folder, on loopback.
"""

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_REPO = re.compile(r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+/[^/]+)(?P<rest>/.*)?")
_BATCH = re.compile(r"/(?:datasets/)?(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
TOKEN = "hf_canary"
LARGE = (".safetensors", ".gguf")


@dataclass
class Hub:
    """What the hub was told: repositories by kind and id, whether each is private, its files, and
    the messages of its commits.
    """

    url: str = ""
    private: dict[tuple[str, str], bool] = field(default_factory=dict)
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        found = _REPO.fullmatch(urlsplit(self.path).path)
        key = (found["kind"], found["id"]) if found else ("", "")
        if key not in self.hub.private:
            self._answer(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        private = self.hub.private[key]
        self._answer(200, {"id": key[1], "private": private, "siblings": [], "tags": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials"})
            return
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer(200, {"warnings": [], "errors": []})
        elif found := _BATCH.fullmatch(path):
            self._batch(json.loads(body))
        elif (found := _REPO.fullmatch(path)) and found["rest"].startswith("/preupload/"):
            files = json.loads(body)["files"]
            told = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            self._answer(200, {"files": told})
        elif found and found["rest"].startswith("/commit/"):
            self._commit((found["kind"], found["id"]), body)
        else:
            self._answer(404, {"error": "not found"})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self._answer(200, b"")

    def _create(self, told: dict[str, Any]) -> None:
        kind = f"{told.get('type', 'model')}s"
        owner = told.get("organization") or "me"
        key = (kind, f"{owner}/{told['name']}")
        prefix = "" if kind == "models" else f"{kind}/"
        status = 409 if key in self.hub.private else 200
        private = told.get("visibility") == "private" or bool(told.get("private"))  # of older ones
        self.hub.private.setdefault(key, private)
        self._answer(status, {"url": f"{self.hub.url}/{prefix}{key[1]}"})

    def _batch(self, told: dict[str, Any]) -> None:
        objects = [
            {
                **each,
                "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}", "header": {}}},
            }
            for each in told["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, key: tuple[str, str], body: bytes) -> None:
        files = self.hub.files.setdefault(key, {})
        for line in filter(None, body.split(b"\n")):
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        url = f"{self.hub.url}/{key[1]}/commit/{'0' * 40}"
        self._answer(200, {"commitUrl": url, "commitOid": "0" * 40, "pullRequestUrl": None})

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serve_writable_hub() -> Iterator[Hub]:
    """A hub in which there is nothing yet; it knows the token `TOKEN` alone."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()
