"""A service without Ray, its tokens, sessions and audit log."""

from functools import cached_property
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from atgen_ray.config import ServiceConfig
from atgen_ray.serving.application import create_api
from atgen_ray.serving.auditing import Auditor
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.audit import AuditLog, Filter
from atgen_ray.store.journal import Journal

ORIGIN = {"Origin": "http://testserver", "Host": "testserver"}


class House:
    """A service without Ray, its tokens and its audit log."""

    def __init__(self, storage: Path) -> None:
        self.journal = Journal(f"sqlite:///{storage}/atgen.db")
        self.tokens = Tokens(self.journal.database)
        self.log = AuditLog(self.journal.database)
        self._storage = storage

    @cached_property
    def app(self) -> FastAPI:
        """Made where a test asks for it: it takes a quarter of a second."""
        return create_api(ServiceConfig(storage=str(self._storage)), None, None)

    @cached_property
    def client(self) -> TestClient:
        return TestClient(self.app, raise_server_exceptions=False, follow_redirects=False)

    def auditor(self) -> Auditor:
        found = next(m.kwargs["auditor"] for m in self.app.user_middleware if "auditor" in m.kwargs)
        assert isinstance(found, Auditor)
        return found

    def entries(self, **chosen: Any) -> list[dict[str, Any]]:
        self.auditor().flush()
        return list(self.log.read(Filter(**chosen)))

    def sign_in(self, token: str) -> str:
        """The cookie of a new session."""
        self.client.cookies.clear()
        answer = self.client.post("/sign-in", data={"token": token}, headers=ORIGIN)
        assert answer.status_code == 303
        cookie = str(answer.cookies["atgen"])
        self.client.cookies.clear()
        return cookie

    def get(self, path: str, cookie: str) -> int:
        return self.client.get(path, headers={"Cookie": f"atgen={cookie}"}).status_code

    def sign_out(self, cookie: str) -> int:
        from atgen_ray.serving.security.sessions import csrf_token

        headers = ORIGIN | {"Cookie": f"atgen={cookie}", "X-CSRF-Token": csrf_token(cookie)}
        return self.client.post("/sign-out", headers=headers).status_code


def caller_of(house: House, token: str) -> Caller:
    caller = house.tokens.identify(token)
    assert caller is not None
    return caller
