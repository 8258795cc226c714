"""The sandboxed template of the user turn."""

import jinja2
import pytest

from atgen_ray.core.errors import UserError
from atgen_ray.models.user_template import (
    check_template,
    fill_template,
    find_ending,
    list_variables,
)


def test_text_of_a_row_is_never_a_template() -> None:
    hostile = "{{ 7 * 7 }}{% for x in range(9) %}{{ secret }}{% endfor %}{# gone #}"
    assert fill_template("Q: {{ input }}", {"input": hostile, "secret": "s"}) == f"Q: {hostile}"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ input.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% set _ = names.append('x') %}",
        "{{ '{0.__class__}'.format(input) | upper }}",
    ],
)
def test_the_sandbox_holds(template: str) -> None:
    with pytest.raises(jinja2.TemplateError):
        fill_template(template, {"input": "x", "names": []})


@pytest.mark.parametrize(
    "template",
    ["{{ input ", "{% if %}", "{{ input | nosuchfilter }}", "{% include 'x' %}{% end %}"],
)
def test_a_broken_template_is_the_users_mistake(template: str) -> None:
    with pytest.raises(UserError, match=r"^prompt\.template is not a valid Jinja2 template: "):
        check_template(template)


@pytest.mark.parametrize("template", ["{{ [1, 2, 3] | random }}", "{{ lipsum() }}"])
def test_nothing_random_reaches_a_text(template: str) -> None:
    with pytest.raises((UserError, jinja2.UndefinedError)):
        fill_template(template, {"input": "x"})


def test_unknown_variables_are_errors_unless_asked_about() -> None:
    with pytest.raises(jinja2.UndefinedError):
        fill_template("{{ title }}", {"input": "x"})
    assert (
        fill_template("{% if title is defined %}{{ title }}{% endif %}{{ input }}", {"input": "x"})
        == "x"
    )


def test_only_outside_names_count_as_variables() -> None:
    template = (
        "{% set a = 1 %}{% for row in rows %}{{ row }}{{ loop.index }}{{ a }}{% endfor "
        "%}{{ range(input) }}"
    )
    assert list_variables(template) == {"rows", "input"}


def test_text_without_the_templates_own_words() -> None:
    template = "Summarize:\n{{ input }}{% if title %} (from {{ title }}){% endif %}\nSummary:"
    assert fill_template(template, {"input": "abc", "title": "T"}, literals=False).split() == [
        "abc",
        "T",
    ]


@pytest.mark.parametrize(
    ("template", "ending"),
    [
        ("{{ input }}", ""),
        ("Q: {{ input }}\n\nAnswer in one word.", "\n\nAnswer in one word."),
        ("{% if x is defined %}{{ x }}{% endif %} end", " end"),
        ("{{ input }}{% if x is defined %} tail{% endif %}", ""),
        ("", ""),
    ],
)
def test_the_fixed_end_of_a_template(template: str, ending: str) -> None:
    assert find_ending(template) == ending
    assert fill_template(template, {"input": "i"}).endswith(ending)
