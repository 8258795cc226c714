"""Templates and patterns that would fill memory or never end; before they were bounded each of these
took gigabytes or minutes.
"""

import resource

import jinja2
import pytest

from atgen_ray.annotation.llm import label_checks
from atgen_ray.config import ChecksConfig
from atgen_ray.models import bounded_templates
from atgen_ray.models.user_template import check_template, fill_template

BIG = "b" * 1_000_000
LINES = "a\n" * 100_000
GROW = "{{% set ns = namespace(x={0}) %}}{{% for i in range(60) %}}{{% set ns.x = {1} %}}{{% endfor %}}"
BOMBS = {
    "percent": '{{ "%300000000d" % 1 }}',
    "percent, width apart": '{{ "%*d" % (300000000, 1) }}',
    "filter format": '{{ "%300000000d"|format(1) }}',
    "method format": '{{ "{:300000000}".format(1) }}',
    "format in a format": '{{ "{:{w}}".format(1, w=300000000) }}',
    "one value often": '{{ ("%(a)s" * 1)|replace("", "%(a)s")|format(a=big) }}',
    "ljust": '{{ "x".ljust(300000000) }}',
    "zfill": '{{ "x".zfill(300000000) }}',
    "center": '{{ "x"|center(300000000) }}',
    "indent": "{{ lines|indent(100000) }}",
    "indent by a text": "{{ lines|indent(big) }}",
    "join": '{{ range(1000)|map("string")|join(big) }}',
    "method join": '{{ big.join(range(1000)|map("string")|list) }}',
    "replace nothing": '{{ big|replace("", big) }}',
    "method replace": '{{ big.replace("b", big) }}',
    "wordwrap": "{{ big|wordwrap(1, True, big) }}",
    "tojson": "{{ range(10000)|list|tojson(indent=100000) }}",
    "batch": "{{ [1]|batch(300000000, 0)|list|length }}",
    "slice": "{{ [1]|slice(300000000)|list|length }}",
    "translate": "{{ big.translate({98: big}) }}",
    "bytes": '{{ (1).to_bytes(300000000, "big")|length }}',
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops by recursion": "{% for a in range(99999) recursive %}{% if a is iterable %}"
    "{{ loop(range(99999)) }}{% else %}{{ loop([range(99999)]) }}{% endif %}{% endfor %}",
    "macro without end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macro in two": "{% macro f(n) %}{{ f(n-1) if n }}{{ f(n-1) if n }}{% endmacro %}{{ f(60) }}",
    "macro that doubles": "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{{ "
    + "f(" * 32 + "big" + ")" * 32 + " }}",
    "plus": GROW.format("big", "ns.x + ns.x"),
    "tilde": GROW.format("big", "ns.x ~ ns.x"),
    "lists": GROW.format("[1]", "ns.x + ns.x"),
    "lists in lists": GROW.format("[1]", "[ns.x, ns.x]") + "{{ ns.x }}",
    "squares": GROW.format("9", "ns.x * ns.x"),
    "slices kept": GROW.format("[]", "ns.x + [big[1:], big[2:]]"),
    "block": "{% set x = big %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 30 + "{{ x }}",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_template_that_blows_up_is_an_error_of_its_row(
    bomb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_templates, "SECONDS", 1.0)
    check_template(BOMBS[bomb])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(jinja2.TemplateError):
        fill_template(BOMBS[bomb], {"big": BIG, "lines": LINES})
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 400 * 1024, f"{grown >> 10} MB"


USUAL = {
    "{{ input }}": "a b",
    "{{ a ~ '-' ~ b }}": "1-2",
    "{% for turn in turns %}{{ loop.index }}/{{ loop.length }} {{ turn.text|trim }};{% endfor %}": (
        "1/2 x;2/2 y;"
    ),
    "{{ '%5.2f|%-4s' % (3.14159, 'ab') }}": " 3.14|ab  ",
    "{{ '{:>4}'.format(7) }}{{ 'x'.ljust(3) }}|": "   7x  |",
    "{{ turns|map(attribute='text')|join(', ')|replace('x', 'long') }}": " long , y",
    "{{ input|indent(2, true)|wordwrap(79)|truncate(99)|upper }}": "  A B",
    "{% macro f(n) %}{{ n }}{{ f(n - 1) if n else '' }}{% endmacro %}{{ f(3) }}": "3210",
    "{% for k in tree recursive %}{{ k.n }}{{ loop(k.c) if k.c else '' }}{% endfor %}": "12",
    "{{ [3, 1]|sort|list }}{{ {'a': 1}|tojson }}{{ 2 * 3 % 4 }}": '[1, 3]{"a": 1}2',
    "{{ input[:1] }}{{ (turns + turns)|length }}{{ 'a' + 'b' }}": "a4ab",
}


@pytest.mark.parametrize("template", USUAL)
def test_usual_templates_are_as_jinja_has_them(template: str) -> None:
    columns = {"input": "a b", "a": 1, "b": 2, "turns": [{"text": " x "}, {"text": "y"}]}
    columns["tree"] = [{"n": 1, "c": [{"n": 2, "c": []}]}]
    assert fill_template(template, columns) == USUAL[template]
    assert jinja2.Environment().from_string(template).render(columns) == USUAL[template]


def test_a_pattern_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_checks, "MATCH_SECONDS", 0.2)
    checks = ChecksConfig(regex=r"(a|aa)+$")
    fault = label_checks.find_fault("text", "a" * 100 + "!", "stop", checks)
    assert fault == "checks.regex '(a|aa)+$' takes more than 0.2 s on it"
    assert label_checks.find_fault("text", "aaa", "stop", checks) is None
