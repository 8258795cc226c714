"""Checks every link of the built site, and that no page loads anything from elsewhere.

Anchors and pictures are checked too.

python docs/site/check.py build/site      # exit status 1 and a line for each broken link
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
UNLOADED = {"canonical", "next", "prev", "alternate"}  # `link` elements that fetch nothing


class Page(HTMLParser):
    """The links, the anchors and the loaded addresses of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes what the element links to, loads or is called."""
        given = {key: value or "" for key, value in attrs}
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if (key := LOADED.get(tag)) and given.get(key) and given.get("rel") not in UNLOADED:
            self.loaded.append(given[key])
        if "mermaid" in given.get("class", ""):
            self.loaded.append("https://mermaid")  # the generator would fetch its script


def check_site(site: Path) -> list[str]:
    """One line for each link that leads nowhere, and for each address loaded from elsewhere."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    problems = []
    for path, page in pages.items():
        name = path.relative_to(site)
        for address in page.loaded:
            if urlsplit(address).netloc:
                problems.append(f"{name}: loads {address} from elsewhere")
        for address in [*page.links, *page.loaded]:
            parts = urlsplit(address)
            if (
                parts.scheme
                or parts.netloc
                or (path.name == "404.html" and parts.path.startswith("/"))
            ):
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                problems.append(f"{name}: {address} leads to no file")
            elif (
                parts.fragment
                and target in pages
                and unquote(parts.fragment) not in pages[target].anchors
            ):
                problems.append(
                    f"{name}: {address} leads to no anchor of {target.relative_to(site)}"
                )
    return problems


if __name__ == "__main__":
    found = check_site(Path(sys.argv[1]).resolve())
    for line in found:
        print(line, file=sys.stderr)
    print(f"{len(found)} broken links" if found else "every link leads somewhere")
    sys.exit(1 if found else 0)
