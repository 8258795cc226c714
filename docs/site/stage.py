"""Gathers the pages of the documentation site in one folder.

The pages are written where a reader of the repository finds them: README.md, CONTRIBUTING.md,
SECURITY.md, benchmarks/README.md and docs/*.md. The site needs them side by side, so this script
copies them, rewrites the links between them, and adds the reference, which it makes from the code.

    python docs/site/stage.py build      # writes build/docs and build/zensical.toml
"""

import re
import shutil
import sys
from pathlib import Path

from reference import write_reference

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?P<head>!?\[[^\]]*\])\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^\s*```")
# Pages that do not stand in docs/, by the name that they have on the site.
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "sweeps.md",
}


def list_pages() -> dict[Path, str]:
    """The name on the site of every page and picture, by its file in the repository."""
    pages = {ROOT / source: name for source, name in ELSEWHERE.items()}
    for path in sorted((ROOT / "docs").iterdir()):
        if path.suffix in {".md", ".png", ".svg", ".ipynb"}:
            pages[path] = path.name
    return pages


def rewrite_links(text: str, source: Path, pages: dict[Path, str]) -> str:
    """The text of a page with its links as they must be on the site; code blocks stay as they are.

    A link to a file of the repository that is no page of the site becomes its path as code.

    Raises:
        SystemExit: a link leads to a file that does not exist.
    """

    def rewrite(match: re.Match[str]) -> str:
        head, target = match["head"], match["target"]
        if target.startswith(("#", "http://", "https://", "mailto:")):
            return match[0]
        path, mark, anchor = target.partition("#")
        file = (source.parent / path).resolve()
        if file in pages:
            return f"{head}({pages[file]}{mark}{anchor})"
        if not file.exists():
            # A page that is made from the code is linked to by the name that it will have.
            if path.startswith("reference/"):
                return match[0]
            raise SystemExit(
                f"{source.relative_to(ROOT)}: a link leads to {target}, which does not exist"
            )
        return f"{head[1:-1]} (`{file.relative_to(ROOT)}`)"

    lines, fenced = [], False
    for line in text.splitlines():
        if FENCE.match(line):
            fenced = not fenced
        lines.append(line if fenced else LINK.sub(rewrite, line))
    return "\n".join(lines) + "\n"


def stage(build: Path) -> None:
    """Writes the pages to build/docs, anew, and the generator's settings to build/zensical.toml."""
    folder = build / "docs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pages = list_pages()
    for source, name in pages.items():
        if source.suffix == ".md":
            (folder / name).write_text(rewrite_links(source.read_text(), source, pages))
        else:
            shutil.copy(source, folder / name)
    shutil.copy(Path(__file__).with_name("extra.css"), folder / "extra.css")
    write_reference(folder / "reference")
    shutil.copy(Path(__file__).with_name("zensical.toml"), build / "zensical.toml")


if __name__ == "__main__":
    stage(Path(sys.argv[1]).resolve())
