"""Browsers for the tests of the pages."""

from collections.abc import Callable, Iterator

import pytest
from helpers.browsing import Visitor, launch_chromium
from helpers.services import Service
from playwright.sync_api import Browser, expect, sync_playwright

expect.set_options(timeout=30_000)  # as long as all else in a browser: other tests share its cores


# Not for the session: while it lives, its event loop keeps all others out of the thread.
@pytest.fixture(scope="module")
def browser(service: Service) -> Iterator[Browser]:
    """Chromium, started after the service."""
    with sync_playwright() as playwright:
        browser = launch_chromium(playwright)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, service: Service) -> Iterator[Callable[..., Visitor]]:
    """Opens browsers of people: admins, or with another token (None: strangers). They must see no
    trouble.
    """
    visitors: list[Visitor] = []

    def open(token: str | None = service.admin, **options: object) -> Visitor:
        visitors.append(Visitor(browser, service, token, options))
        return visitors[-1]

    yield open
    for visitor in visitors:
        visitor.context.close()
    assert [visitor.troubles for visitor in visitors if visitor.troubles] == []
