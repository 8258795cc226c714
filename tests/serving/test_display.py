"""Texts in their form: what is guessed, what is drawn, and that nothing of a text is active."""

import json
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest

from atgen_ray.serving.pages.display import guess_kind, guess_language, list_turns, show_text
from atgen_ray.serving.pages.markdown import HTML_TAGS, MATH_TAGS, render_formula, render_markdown
from atgen_ray.text.conversation import Conversation, Turn

ALLOWED = {*HTML_TAGS.split(), *MATH_TAGS.split()}

ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<a href=javascript:alert(1)>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](javascript&colon;alert(1))",
    "[x](vbscript:msgbox(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](//evil.example/a)",
    "[x](/sign-out)",
    "[x](https://a.example 'onmouseover=alert(1)')",
    '[x](https://a.example"onmouseover="alert(1))',
    "![x](https://evil.example/a.png)",
    "![x](javascript:alert(1))",
    '![" onerror="alert(1)](https://a.example/a.png)',
    '<https://a.example/"onclick=alert(1)>',
    "<javascript:alert(1)>",
    "[a]: javascript:alert(1)\n\n[a]",
    "```html\n<script>alert(1)</script>\n```",
    '```" onclick=alert(1)\nx\n```',
    "`<script>alert(1)</script>`",
    "# <style>*{display:none}</style>",
    "| a |\n|---|\n| <img src=x onerror=alert(1)> |",
    "$\\text{<script>alert(1)</script>}$",
    "$\\text{<img src=x onerror=alert(1)>}$",
    "$\\href{javascript:alert(1)}{x}$",
    "$\\class{window}{x}\\style{color:red}{x}\\cssId{notice}{x}$",
    "$$\\mathrm{</math><img src=x onerror=alert(1)>}$$",
    "$$\\unicode{x3c}img src=x onerror=alert(1)>$$",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
    "<form action=https://evil.example><input name=csrf><button>x",
    "<base href=https://evil.example>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<button data-post=/sign-out>x</button>",
    "\u202e<b>\0\x0b</b>\ud800",
]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def read_tags(markup: str) -> Iterator[tuple[str, dict[str, str | None]]]:
    reader = _Reader()
    reader.feed(markup)
    return iter(reader.tags)


def wrap(attack: str) -> Iterator[str]:
    """The attack as each kind of text."""
    yield attack
    yield json.dumps({attack: [attack, {"deep": attack}]})
    yield json.dumps([{"role": attack, "content": attack}, {"role": "user", "content": attack}])
    yield json.dumps(
        [{"from": "human", "value": [{"type": "image_url", "image_url": {"url": attack}}, attack]}]
    )
    yield f"user: {attack}\n\nassistant: {attack}"


@pytest.mark.parametrize("attack", ATTACKS)
def test_stored_markup_stays_inert(attack: str) -> None:
    for text in wrap(attack):
        for kind in ("auto", "text", "markdown", "code", "json", "conversation"):
            shown = show_text(text, kind, window=len(text) // 2)
            for markup in (shown.html, shown.raw or ""):
                for tag, attributes in read_tags(markup):
                    assert tag in ALLOWED, (kind, tag, markup)
                    assert not [name for name in attributes if name.startswith(("on", "data-"))]
                    assert not attributes.keys() & {"style", "src", "id", "action", "srcset"}
                    link = attributes.get("href")
                    assert link is None or link.startswith(("http://", "https://", "mailto:"))
                    assert link is None or tag == "a", "a formula has no links"


def test_markdown_is_drawn_and_links_say_their_host() -> None:
    text = (
        "# Title\n\nSome **bold** [link](https://docs.example.org/a?b=c)\nnext line\n\n- one\n- two\n\n"
        "| a |\n|---|\n| b |\n\n![cat](https://pics.example/cat.png)\n\n$x^2$"
    )
    markup = render_markdown(text)
    for part in ("<h1", "<strong>bold</strong>", "<br>", "<li", "<table", "<msup>"):
        assert part in markup
    assert '<span class="host">(docs.example.org)</span>' in markup
    assert 'rel="noopener noreferrer nofollow"' in markup
    assert "<img" not in markup
    assert "[picture: cat]</a>" in markup
    assert "(pics.example)" in markup


@pytest.mark.parametrize(
    ("latex", "parts"),
    [
        (r"\frac{a}{b}", ["<mfrac>"]),
        (r"\int_0^\infty e^{-x}", ["<msubsup>", "∞"]),
        (r"\text{a < b & c}", ["a", "&lt;", "&amp;"]),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", ["<mtable", "<mtd>"]),
    ],
)
def test_formulas_are_mathml(latex: str, parts: list[str]) -> None:
    markup = render_formula(latex)
    assert markup is not None
    for part in ("<math", *parts):
        assert part in markup


def test_a_formula_that_cannot_be_read_is_shown_as_it_is() -> None:
    assert render_formula(r"\frac{") is None
    assert r"\frac{" in render_markdown(r"so $\frac{$ is")
    assert "costs $5 and $6" in render_markdown("It costs $5 and $6.")


@pytest.mark.parametrize(
    ("text", "column", "kind"),
    [
        ("A plain sentence that costs $5 and $6, or so.", "", "text"),
        ("# Title\n\ntext", "", "markdown"),
        ("See `f` and **this**.", "", "markdown"),
        ("- one\n- two", "", "markdown"),
        ("where $a_i = b$ holds", "", "markdown"),
        ('{"a": [1, 2]}', "", "json"),
        ("{not json}", "", "text"),
        ("[]", "", "text"),
        ('[{"role": "user", "content": "Hi"}]', "", "conversation"),
        ('{"conversations": [{"from": "human", "value": "Hi"}]}', "", "conversation"),
        ("user: Hi\n\nassistant: Hello\n\nuser: Bye", "", "conversation"),
        ("user: only one", "", "text"),
        ("import os\n\ndef f(x):\n    return x\n", "", "code"),
        ("x y", "source_code", "code"),
        ("x y", "readme", "markdown"),
        ("", "", "text"),
    ],
)
def test_the_form_is_guessed(text: str, column: str, kind: str) -> None:
    assert guess_kind(text, column) == kind
    assert show_text(text, column=column).kind == kind


def test_a_conversation_has_its_turns_and_json_folds() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://a.example/x.png"}}
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Look:"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]},
    ]
    assert [turn.role for turn in list_turns(json.dumps(chat))] == ["system", "user", "assistant"]
    markup = show_text(json.dumps({"messages": chat})).html
    assert markup.count('class="turn"') == 3
    assert "(a.example)" in markup
    assert "tool_calls" in markup
    turns = list_turns("Be brief.\n\nuser: Hi: there\n\nassistant: a\n\nb")
    assert [(turn.role, turn.parts) for turn in turns] == [
        ("system", ("Be brief.",)), ("user", ("Hi: there",)), ("assistant", ("a\n\nb",)),
    ]  # fmt: skip
    folded = show_text('{"n": 12345678901234567890, "f": 1.10, "e": 1e400, "x": {"y": {"z": 1}}}')
    for number in ("12345678901234567890", "1.10", "1e400"):
        assert number in folded.html
    assert folded.html.count("<details open") == 2
    assert folded.html.count("<details>") == 1


def test_an_example_that_is_a_conversation_is_shown_by_turns() -> None:
    asked = Conversation(
        (
            Turn("user", "# Rain?"),
            Turn("assistant", "", (("weather", {"town": "<b>Tartu"}),), ("a",)),
            Turn("tool", "3 mm", (), ("a",), "weather"),
        ),
        ({"type": "function", "function": {"name": "weather"}},),
    )
    for kind in ("auto", "text", "json"):
        shown = show_text(asked.write(), kind)
        assert shown.kind == "conversation"
        who = re.findall(r'class="who">([^<]*)<', shown.html)
        assert who == ["user", "assistant", "tool (weather)", "tools"]
        assert "&lt;b&gt;Tartu" in shown.html
        assert shown.raw is not None
        assert "atgen" not in shown.raw + shown.html
        assert "tool (weather): 3 mm" in shown.raw


def test_a_kind_that_does_not_fit_falls_back_to_the_text() -> None:
    for kind in ("json", "conversation"):
        shown = show_text("no such thing", kind)
        assert (shown.kind, shown.html, shown.raw) == ("text", "no such thing", None)


def test_the_end_of_the_models_window_is_told() -> None:
    text = "word " * 100
    for kind in ("text", "code", "markdown"):
        before, _, after = show_text(text, kind, window=250).html.partition("window ends here")
        assert before.count("word") == after.count("word") == 50
    assert "reads 3 of 10" in show_text('{"a": 123}', window=3).html
    assert "window" not in show_text(text, window=None).html + show_text(text, window=500).html


def test_scripts_that_share_characters_have_their_language() -> None:
    assert guess_language("名前はまだ無い。吾輩は猫である。") == "ja"
    assert guess_language("白日依山尽，黄河入海流。") == "zh"
    assert guess_language("모든 인간은 태어날 때부터") == "ko"
    assert guess_language("An English text with one 字.") is None
    assert guess_language("") is None


HUGE = {
    "brackets": "[" * 60_000,
    "pictures": "![" * 30_000,
    "stars": "*a " * 20_000,
    "both": "*a_ " * 15_000,
    "quotes": "> " * 30_000,
    "backticks": "".join("`" * n + " " for n in range(340)),
    "nested lists": "".join("  " * n + "- a\n" for n in range(240)),
    "tables": ("|a" * 50 + "\n" + "|-" * 50 + "\n" + "|b" * 50 + "\n\n") * 190,
    "links": "[a](" * 15_000,
    "references": "[a]: b\n" * 8_000,
    "dollars": "$a" * 30_000,
    "formulas": "$\\frac{a}{b}$ " * 4_000,
    "nested formula": "$" + "\\sqrt{" * 300 + "}" * 300 + "$",
    "one line": "a" * 2_000_000,
    "deep json": "[" * 100_000 + "]" * 100_000,
    "wide json": json.dumps(list(range(150_000))),
    "deep objects": '{"a":' * 900 + "1" + "}" * 900,
    "long number": '{"a": ' + "1" * 100_000 + "}",
    "turns": "user: a\n\nassistant: b\n\n" * 15_000,
    "code": "import os\n" * 40_000,
}


@pytest.mark.parametrize("name", HUGE)
def test_no_text_takes_long(name: str) -> None:
    for kind in ("auto", "markdown"):
        started = time.process_time()
        shown = show_text(HUGE[name], kind, window=100)
        assert time.process_time() - started < 4.0
        assert len(shown.html) < 8 * len(HUGE[name]) + 1_000_000
