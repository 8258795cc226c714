"""A report as a browser would read it."""

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input", "wbr", "base", "source", "embed"}


class Page(HTMLParser):
    """Elements in order, and the text inside the element of each id; CSS is no text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.styles: list[str] = []
        self._open: list[tuple[str, str | None]] = []
        self._text: dict[str | None, list[str]] = {None: []}
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("id")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        opened, _ = self._open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        if any(tag == "style" for tag, _ in self._open):
            self.styles.append(data)
            return
        for id in {None, *(id for _, id in self._open if id)}:
            self._text.setdefault(id, []).append(data)

    def text(self, id: str | None = None) -> str:
        """All text, or that inside one element, white space squeezed."""
        return " ".join(" ".join(self._text[id]).split())

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]
