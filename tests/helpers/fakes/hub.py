"""A stand-in for the Hugging Face hub: its protocol over a folder, on loopback."""

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_API = re.compile(
    r"/api/datasets/(?P<id>[^/]+/[^/]+|[^/]+)/(?P<what>revision|tree)/(?P<revision>[^/]+)"
)
_FILE = re.compile(r"/datasets/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


def commit_of(repository: str, revision: str) -> str:
    """The commit that a revision of a repository stands for."""
    return hashlib.sha1(f"{repository}@{revision}".encode()).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    root: Path

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if found := _API.fullmatch(path):
            self._tell(found["id"], unquote(found["revision"]), found["what"])
        elif found := _FILE.fullmatch(path):
            self._send(found["id"], unquote(found["revision"]), unquote(found["path"]))
        else:
            self._answer(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _find(self, repository: str, revision: str) -> tuple[Path | None, str]:
        """The folder of a revision, named by the branch or its commit."""
        for folder in (self.root / repository).glob("*"):
            branch = folder.name.replace("+", "/")
            if revision in (branch, commit_of(repository, branch)):
                return folder, commit_of(repository, branch)
        return None, ""

    def _tell(self, repository: str, revision: str, what: str) -> None:
        folder, commit = self._find(repository, revision)
        if folder is None:
            code = "RevisionNotFound" if (self.root / repository).is_dir() else "RepoNotFound"
            self._answer(404, {"error": "not found"}, {"X-Error-Code": code})
            return
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        if what == "revision":
            siblings = [{"rfilename": name} for name in names]
            self._answer(
                200,
                {
                    "id": repository,
                    "sha": commit,
                    "siblings": siblings,
                    "private": False,
                    "tags": [],
                },
            )
            return
        oids = [hashlib.sha1(path.read_bytes()).hexdigest() for path in files]
        tree = [
            {"type": "file", "oid": oid, "size": path.stat().st_size, "path": name}
            for path, name, oid in zip(files, names, oids, strict=True)
        ]
        self._answer(200, tree)

    def _send(self, repository: str, revision: str, name: str) -> None:
        folder, commit = self._find(repository, revision)
        if folder is None or not (folder / name).is_file():
            self._answer(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        content = (folder / name).read_bytes()
        self._answer(
            200,
            content,
            {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit},
        )

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serve_hub(root: Path) -> Iterator[str]:
    """The address of a hub with the repositories `root/OWNER/NAME/REVISION/...`, slashes of a
    revision as +.
    """
    handler = type("Handler", (_Handler,), {"root": root})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
