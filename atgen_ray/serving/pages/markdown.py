"""Markdown and LaTeX as HTML that is safe to show: texts of the pool and of people never become
active markup.

Raw HTML is text. Formulas become MathML, which browsers draw without a script. Pictures are links,
so nothing is loaded; a link says the host that it leads to. An allow-list is applied to the result
last, so a fault of the parser lets nothing pass.
"""

import html
from collections.abc import MutableMapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from markdown_it import MarkdownIt
    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token

LONGEST = 60_000  # characters of Markdown; a longer text is shown as it is
MARKS = 10_000  # of the characters that take the parser longest
LONGEST_FORMULA = 2_000  # characters
FORMULAS = 300  # in one text
SCHEMES = {"http", "https", "mailto"}

HTML_TAGS = (
    "a blockquote br button code del details div em h1 h2 h3 h4 h5 h6 hr li ol p pre span strong "
    "summary table tbody td th thead tr ul"
)
MATH_TAGS = (
    "math menclose mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot mrow "
    "mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover none"
)
MATH_ATTRIBUTES = (
    "accent columnalign columnlines columnspacing depth display displaystyle fence form height "
    "largeop linethickness lspace mathvariant maxsize minsize movablelimits notation rowspacing "
    "rspace scriptlevel separator stretchy symmetric voffset width"
)
# Classes that the markup of this package uses; all others are removed.
CLASSES = {"display", "formula", "host", "member", "number", "turn", "who", "window", "beyond"}


def render_markdown(text: str) -> Markup:
    """Return Markdown as HTML. Formulas stand between `$`, `$$`, `\\(` and `\\)`, or `\\[` and
    `\\]`.

    A text that would take long is returned as it is, between `<pre>`.
    """
    if not is_renderable(text):
        return Markup("<pre>{}</pre>").format(text)
    try:
        return sanitise(_parser().render(text, {"formulas": 0}))
    except RecursionError:
        return Markup("<pre>{}</pre>").format(text)


def is_renderable(text: str) -> bool:
    """Return whether Markdown can be rendered in about a second at most."""
    return len(text) <= LONGEST and sum(text.count(mark) for mark in "[*_`~|&<") <= MARKS


def sanitise(markup: str) -> Markup:
    """Return HTML with the tags, attributes and addresses of the allow-list alone."""
    import nh3

    tags = set(HTML_TAGS.split()) | set(MATH_TAGS.split())
    attributes = {tag: set(MATH_ATTRIBUTES.split()) for tag in MATH_TAGS.split()}
    attributes |= {"a": {"href", "target"}, "ol": {"start"}, "details": {"open"}}
    attributes |= {"*": {"class", "dir", "lang", "title"}}
    attributes |= {"table": {"tabindex"}, "p": {"tabindex"}}
    clean = nh3.clean(
        markup.replace("\0", "\ufffd").encode("utf-8", "replace").decode(),
        tags=tags,
        attributes=attributes,
        attribute_filter=_filter_attribute,
        url_schemes=SCHEMES,
        link_rel="noopener noreferrer nofollow",
    )
    # Only this module decides what is markup, and what passed the allow-list.
    return Markup(clean)  # noqa: S704


def _filter_attribute(tag: str, name: str, value: str) -> str | None:
    if name == "class":
        return " ".join(each for each in value.split() if each in CLASSES) or None
    return value


@cache
def _parser() -> "MarkdownIt":
    """Return the parser of Markdown; a line break in the source is one on the page."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin
    from mdit_py_plugins.texmath import texmath_plugin

    parser = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": 40})
    parser.enable(["table", "strikethrough"])
    dollarmath_plugin(parser, allow_digits=False, double_inline=True)
    texmath_plugin(parser, delimiters="brackets")
    parser.validateLink = _is_link  # type: ignore[method-assign]
    parser.core.ruler.push("directions", _set_directions)
    for name in ("math_inline", "math_inline_double", "math_block", "math_block_eqno"):
        parser.add_render_rule(name, _render_formula)
    parser.add_render_rule("image", _render_picture)
    parser.add_render_rule("link_open", _render_link_open)
    parser.add_render_rule("link_close", _render_link_close)
    return parser


def _is_link(url: str) -> bool:
    """Return whether an address leads to another page: no script, no data, nothing relative."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in SCHEMES and bool(parts.netloc or parts.scheme == "mailto")


def _set_directions(state: Any) -> None:
    """Give each block the direction of its own text, and each table a place in the order of
    focus.
    """
    for token in state.tokens:
        if token.type == "table_open":
            token.attrSet("tabindex", "0")  # a wide one scrolls, by keyboard too
        if token.nesting == 1 and token.type not in ("thead_open", "tbody_open", "tr_open"):
            token.attrSet("dir", "auto")


def _render_link_open(
    self: "RendererHTML",
    tokens: Sequence["Token"],
    place: int,
    options: Any,
    env: MutableMapping[str, Any],
) -> str:
    url = str(tokens[place].attrGet("href") or "")
    env.setdefault("links", []).append(url)
    return f'<a href="{escape(url)}" target="_blank">'


def _render_link_close(
    self: "RendererHTML",
    tokens: Sequence["Token"],
    place: int,
    options: Any,
    env: MutableMapping[str, Any],
) -> str:
    links = env.get("links") or [""]
    return f"</a>{name_host(links.pop())}"


def _render_picture(
    self: "RendererHTML",
    tokens: Sequence["Token"],
    place: int,
    options: Any,
    env: MutableMapping[str, Any],
) -> str:
    token = tokens[place]
    return link_picture(str(token.attrGet("src") or ""), token.content)


def name_host(url: str) -> Markup:
    """Return the host of an address, as it is shown after a link."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or parts.path.rpartition("@")[2]
    except ValueError:
        host = "?"
    return Markup(' <span class="host">({})</span>').format(host)


def link_picture(url: str, text: str = "") -> Markup:
    """Return a link to a picture, which is not loaded; without the link where it leads nowhere."""
    named = f"picture: {text}" if text else "picture"
    if not _is_link(url):
        return Markup('<span class="host">[{}]</span>').format(named)
    return Markup('<a href="{}" target="_blank">[{}]</a>{}').format(url, named, name_host(url))


def _render_formula(
    self: "RendererHTML",
    tokens: Sequence["Token"],
    place: int,
    options: Any,
    env: MutableMapping[str, Any],
) -> str:
    token = tokens[place]
    env["formulas"] = env.get("formulas", 0) + 1
    block = token.type != "math_inline"
    formula = None
    if env["formulas"] <= FORMULAS:
        formula = render_formula(token.content, block)
    shown = formula or Markup('<code class="formula">{}</code>').format(token.content)
    if token.type in ("math_block", "math_block_eqno"):
        return f'<p class="display" tabindex="0">{shown}</p>\n'
    return shown


def render_formula(latex: str, block: bool = False) -> Markup | None:
    """Return LaTeX as MathML, None where it cannot be read."""
    from xml.etree.ElementTree import tostring

    if len(latex) > LONGEST_FORMULA:
        return None
    try:
        from latex2mathml.converter import convert_to_element

        root = convert_to_element(latex, display="block" if block else "inline")
        _decode(root)
        markup = tostring(root, encoding="unicode")
    except Exception:  # its parser raises many kinds of errors, and a formula is no reason to fail
        return None
    return sanitise(markup.replace("&#13;", ""))


def _decode(root: "Element") -> None:
    """Turn the references to characters that the converter writes into the characters."""
    for element in root.iter():
        element.text = html.unescape(element.text) if element.text else element.text
        element.tail = html.unescape(element.tail) if element.tail else element.tail
        for name in [name for name in element.attrib if ":" in name or "}" in name]:
            del element.attrib[name]
