"""A browser as tests use it: signed in, and watched for anything that a page must not do."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Playwright

from helpers.services import Service, sign_in

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
VIOLATIONS = (
    "document.addEventListener('securitypolicyviolation', e => console.error('CSP: ' + "
    "e.violatedDirective))"
)


def launch_chromium(playwright: Playwright) -> Browser:
    """Chromium of this system, without a screen."""
    program = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    assert program, "Chromium is missing: apt-get install chromium"
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []  # it refuses to run as root with one
    return playwright.chromium.launch(executable_path=program, args=sandbox)


@dataclass
class Visitor:
    """Somebody with a browser of their own. `troubles` are dialogs, errors of scripts, and what the
    CSP turned away.
    """

    browser: Browser
    service: Service
    token: str | None
    options: dict[str, Any] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context = self.browser.new_context(base_url=self.service.url, **self.options)
        self.context.set_default_timeout(30_000)
        self.context.add_init_script(VIOLATIONS)
        if self.token is not None:
            cookie = {
                "name": "atgen",
                "value": sign_in(self.service.url, self.token),
                "url": self.service.url,
                "sameSite": "Strict",
            }
            self.context.add_cookies([cookie | {"httpOnly": True}])  # type: ignore[list-item]
        self.page = self.context.new_page()
        self.watch(self.page)

    def watch(self, page: Page) -> None:
        """Notes the troubles of a page; what the server refused is told by the browser too, and
        stands apart.
        """

        def note(message: Any) -> None:
            if message.type in ("error", "warning"):
                (
                    self.refused if "Failed to load resource" in message.text else self.troubles
                ).append(message.text)

        page.on("console", note)
        page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        page.on("dialog", self._refuse_dialog)

    def _refuse_dialog(self, dialog: Any) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, path: str) -> Page:
        """The page at `path`, with all its parts there."""
        self.page.goto(path)
        return self.settle()

    def settle(self) -> Page:
        """Opens every part of the page, and scrolls through it until all are loaded."""
        for fold in self.page.locator("details.fold:not([open]) > summary").all()[::-1]:
            fold.click()
        for part in self.page.locator("[data-part]").all():
            part.scroll_into_view_if_needed()
            part.and_(self.page.locator(":not([aria-busy])")).wait_for(state="attached")
        self.page.evaluate("window.scrollTo(0, 0)")
        return self.page


@contextmanager
def receive_visitors() -> Iterator[list[Visitor]]:
    """A list for visitors, whose browsers are closed at the end. They must have seen no trouble.

    Their routes end first: a handler that is still under way when its browser closes fails, and
    its error is raised in whichever test uses Playwright next.
    """
    visitors: list[Visitor] = []
    yield visitors
    for visitor in visitors:
        for page in visitor.context.pages:
            page.unroute_all(behavior="ignoreErrors")
        visitor.context.unroute_all(behavior="ignoreErrors")
        visitor.context.close()
    assert [visitor.troubles for visitor in visitors if visitor.troubles] == []


def type_label(page: Page, text: str) -> None:
    """Submits a label in place of what the answer box of the annotator's page has."""
    page.keyboard.press("Control+a")
    page.keyboard.type(text)
    page.keyboard.press("Control+Enter")


def wait_for(page: Page, check: Callable[[], bool]) -> None:
    """Waits in the browser's loop, in which routes and handlers of events are called."""
    deadline = time.monotonic() + 60
    while not check():
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)


def find_barriers(page: Page) -> list[str]:
    """What axe-core finds, by WCAG 2.2 AA and its best practices."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['target']} {node['html'][:200]}"
        for each in found
        for node in each["nodes"]
    ]


def keep_screenshot(page: Page, name: str) -> None:
    """Keeps a picture of the page where ATGEN_SCREENSHOTS says, by default nowhere."""
    if folder := os.environ.get("ATGEN_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
