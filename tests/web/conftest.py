"""Browsers for the tests of the pages: at the whole service, or at a server without Ray."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.browsing import Visitor, launch_chromium, receive_visitors
from helpers.desk_server import DeskServer, run_desk_server
from helpers.services import Service
from playwright.sync_api import Browser, expect, sync_playwright

from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import Journal

expect.set_options(timeout=30_000)  # as long as all else in a browser: other tests share its cores


# Not for the session: while it lives, its event loop keeps all others out of the thread. The
# service, which is one for the session, starts before it.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium."""
    with sync_playwright() as playwright:
        browser = launch_chromium(playwright)
        yield browser
        browser.close()


@pytest.fixture
def visit(service: Service, browser: Browser) -> Iterator[Callable[..., Visitor]]:
    """Opens browsers of people at the service: admins, or with another token (None: strangers)."""
    with receive_visitors() as visitors:

        def open(token: str | None = service.admin, **options: object) -> Visitor:
            visitors.append(Visitor(browser, service, token, options))
            return visitors[-1]

        yield open


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeskServer]:
    """The API and the pages without Ray."""
    with run_desk_server(tmp_path_factory.mktemp("desk")) as server:
        yield server


@pytest.fixture(scope="module")
def journal(server: DeskServer) -> Iterator[Journal]:
    """The journal of `server`."""
    with server.open_journal() as journal:
        yield journal


@pytest.fixture
def come(
    browser: Browser, server: DeskServer, journal: Journal
) -> Iterator[Callable[..., Visitor]]:
    """Opens browsers of people at `server`, by default of an admin; None is a stranger. Their
    pages must ask for nothing elsewhere.
    """
    outside: list[str] = []
    with receive_visitors() as visitors:

        def open(name: str | None = "lead", role: Any = "admin", **options: Any) -> Visitor:
            token = None if name is None else Tokens(journal.database).create(role, name)
            visitor = Visitor(browser, server, token, options)  # type: ignore[arg-type]
            visitor.page.on(
                "request", lambda r: None if r.url.startswith(server.url) else outside.append(r.url)
            )
            visitors.append(visitor)
            return visitor

        yield open
    assert outside == []
