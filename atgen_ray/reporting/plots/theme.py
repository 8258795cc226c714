"""Colours and type of the plots, and the conversion of matplotlib figures to inline SVG or PNG.

Figures are drawn once in the light colours. In the SVG each colour becomes a CSS variable of the
same name, so the page decides between light and dark, and text stays text in the page's own
typeface.
"""

import io
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# name: (light, dark). The series are the hues of Okabe and Ito (2008), told apart by the
# colour-blind, with their lightness set for at least 4.5:1 on the page.
COLOURS = {
    "page": ("#fcfcfb", "#14171b"),
    "panel": ("#f4f5f5", "#1b1f25"),
    "ink": ("#191d22", "#e9ebee"),
    "muted": ("#5a636e", "#9aa4b0"),
    "line": ("#e0e3e6", "#2e343c"),
    "dots": ("#b4bcc5", "#5b6673"),
    "series-1": ("#0b6bab", "#5cb3ea"),
    "series-2": ("#c04a00", "#f58d4f"),
    "series-3": ("#007a58", "#3fc79c"),
    "series-4": ("#a34a82", "#e49bca"),
    "series-5": ("#8d6400", "#e2b340"),
    "series-6": ("#5f4bb6", "#b3a5fa"),
    "series-7": ("#50565e", "#c2c8cf"),
}
SERIES = [name for name in COLOURS if name.startswith("series-")]
MARKERS = "osD^vPX"
PIXEL = 1 / 72  # an inch holds 72 of the SVG's pixels

_SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with dollar signs is a name
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": COLOURS["ink"][0],
    "axes.edgecolor": COLOURS["line"][0],
    "axes.facecolor": "none",
    "axes.labelcolor": COLOURS["muted"][0],
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": COLOURS["line"][0],
    "grid.linewidth": 1,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "xtick.color": COLOURS["muted"][0],
    "ytick.color": COLOURS["muted"][0],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
}
Draw = Callable[["Figure"], None]
_DRAWING = threading.Lock()  # matplotlib's settings are those of the process
_BY_LIGHT = {light: name for name, (light, _) in COLOURS.items()}
_MARKS = "atgen_marks"  # of a figure
_FRACTION = re.compile(r"-?\d+\.\d{2,}(?:e-?\d+)?")
_HREF = "{http://www.w3.org/1999/xlink}href"


def colour(name: str) -> str:
    """Return the light colour called `name`, which figures are drawn with."""
    return COLOURS[name][0]


def series_colour(index: int) -> str:
    """Return the colour of series `index`, counted from 0; the seven colours repeat."""
    return colour(SERIES[index % len(SERIES)])


def write_variables() -> str:
    """Return CSS with every colour as a variable, light or dark as the reader's system prefers, and
    a class for each series that sets `--hue`.
    """
    light = "".join(f" --{name}: {pair[0]};" for name, pair in COLOURS.items())
    dark = "".join(f" --{name}: {pair[1]};" for name, pair in COLOURS.items())
    hues = " ".join(f".{name} {{ --hue: var(--{name}); }}" for name in SERIES)
    rule = "@media (prefers-color-scheme: dark)"
    return f":root {{ color-scheme: light dark;{light} }}\n{rule} {{ :root {{{dark} }} }}\n{hues}\n"


def plain(text: str) -> str:
    """Return `text` with blanks for the control characters that no SVG may hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def mark_value(axes: "Axes", x: float, y: float, text: str) -> None:
    """Let the SVG show `text` where the pointer is at a point of the data; limits of the axes must
    not change after this.
    """
    column, row = axes.transData.transform((x, y))
    marks = vars(axes.figure).setdefault(_MARKS, [])
    marks.append((float(column), float(row), text))


def draw_svg(name: str, label: str, size: tuple[float, float], draw: Draw) -> Markup:
    """Return the figure that `draw` fills as an inline SVG; equal input gives equal bytes.

    Args:
        name: unique in the page, since it salts the ids inside.
        label: what a screen reader says.
        size: width and height in pixels.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    stream = io.StringIO()
    with _DRAWING, rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=(size[0] * PIXEL, size[1] * PIXEL), dpi=72)
        draw(figure)
        figure.savefig(
            stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    root = ElementTree.fromstring(stream.getvalue())  # noqa: S314 - written by matplotlib a line above
    _refine(root)
    _spread_styles(root)
    for column, row, text in vars(figure).get(_MARKS, []):
        place = {"cx": f"{column:.1f}", "cy": f"{size[1] - row:.1f}", "r": "6"}
        point = ElementTree.SubElement(
            root, "circle", {"class": "point", "fill": "transparent"} | place
        )
        ElementTree.SubElement(point, "title").text = plain(text)
    root.attrib = {
        "class": "plot",
        "viewBox": f"0 0 {size[0]:g} {size[1]:g}",
        "role": "img",
        "aria-label": plain(label),
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 - ElementTree escapes all text in it


def draw_svg_file(label: str, size: tuple[float, float], draw: Draw) -> str:
    """Return the SVG of `draw_svg` as a file of its own, light or dark as the reader's screen."""
    light = "".join(f"--{name}:{hues[0]};" for name, hues in COLOURS.items())
    dark = "".join(f"--{name}:{hues[1]};" for name, hues in COLOURS.items())
    style = f"svg{{{light}font-family:sans-serif;background:var(--page)}}"
    style += f"@media(prefers-color-scheme:dark){{svg{{{dark}}}}}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]:g}" height="{size[1]:g}" '
    body = draw_svg("figure", label, size, draw).removeprefix("<svg ")
    tag, _, rest = body.partition(">")
    return f"{head}{tag}><style>{style}</style>{rest}\n"


def draw_png(size: tuple[float, float], draw: Draw) -> bytes:
    """Return the figure that `draw` fills as a PNG in the light colours, twice `size` pixels."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stream = io.BytesIO()
    with _DRAWING, rc_context({**_SETTINGS, "figure.facecolor": colour("page")}):
        figure = Figure(figsize=(size[0] * PIXEL, size[1] * PIXEL), dpi=144)
        FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def add_axes(figure: "Figure", left: float, right: float, top: float, bottom: float) -> "Axes":
    """Add axes with these margins in pixels, and return them."""
    width, height = (inches / PIXEL for inches in figure.get_size_inches())
    box = (
        left / width,
        bottom / height,
        (width - left - right) / width,
        (height - top - bottom) / height,
    )
    return figure.add_axes(box)


def _refine(element: ElementTree.Element) -> None:
    """Drop what the page does not need, and replace colours by their CSS variables."""
    element.tag = element.tag.rpartition("}")[2]
    for child in [*element]:
        _refine(child)
        if child.tag in ("style", "metadata") or (child.tag == "defs" and not len(child)):
            element.remove(child)
    kept = {
        key: value for key, value in element.attrib.items() if not _is_idle(element.tag, key, value)
    }
    element.attrib = {
        "href" if key == _HREF else key: _refine_value(key, value) for key, value in kept.items()
    }
    if element.tag == "text":
        # matplotlib names no colour for black text, and ours is never black.
        element.attrib["style"] = _refine_value(
            "style", f"fill: {colour('ink')}; {kept.get('style', '')}"
        )
    else:
        element.text = None
    element.tail = None
    _share_style(element)


def _is_idle(tag: str, key: str, value: str) -> bool:
    return (key == "id" and tag == "g") or (key == "transform" and value.startswith("rotate(-0 "))


def _refine_value(key: str, value: str) -> str:
    if key == "style":
        rules = [rule.strip() for rule in value.split(";")]
        style = "; ".join(rule for rule in rules if rule and not rule.startswith("font-family"))
        return re.sub(r"#[0-9a-f]{6}", lambda match: f"var(--{_BY_LIGHT[match[0]]})", style)
    if key in ("d", "x", "y", "width", "height", "transform"):
        return " ".join(_FRACTION.sub(lambda match: f"{float(match[0]):.2f}", value).split())
    return value


def _share_style(element: ElementTree.Element) -> None:
    """Move the style that all children share to their group: thousands of equal markers need it
    once.
    """
    styles = {child.get("style", "") for child in element}
    if (
        element.tag == "g"
        and len(element) > 1
        and len(styles) == 1
        and all(child.tag == "use" for child in element)
    ):
        element.set("style", styles.pop())
        for child in element:
            child.attrib.pop("style", None)


def _spread_styles(root: ElementTree.Element) -> None:
    """Replace inline styles, which a strict content security policy forbids, by attributes."""
    for element in root.iter():
        for rule in element.attrib.pop("style", "").split("; "):
            key, _, value = rule.partition(": ")
            if value:
                element.set(key, value)
