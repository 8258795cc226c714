"""Template of the user turn: sandboxed Jinja2, filled with a row's columns. Text of a row is never
a template.
"""

from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import meta, nodes

from atgen_ray.core.errors import UserError
from atgen_ray.models.bounded_templates import BoundedSandbox, render


@lru_cache(maxsize=1)
def _environment() -> BoundedSandbox:
    return BoundedSandbox()


def _parse(template: str) -> nodes.Template:
    try:
        return _environment().parse(template)
    except jinja2.TemplateError as error:
        raise UserError(f"prompt.template is not a valid Jinja2 template: {error}") from error


@lru_cache(maxsize=32)
def _compile(template: str, literals: bool) -> jinja2.Template:
    tree = _parse(template)
    if not literals:
        for part in tree.find_all(nodes.TemplateData):
            part.data = " "
    try:
        return _environment().from_string(_environment().bound(tree))
    except jinja2.TemplateError as error:  # an unknown filter or test
        raise UserError(f"prompt.template is not a valid Jinja2 template: {error}") from error


def check_template(template: str, key: str = "prompt.template") -> None:
    """Check that the template, the value of `key`, is valid Jinja2.

    Raises:
        UserError: it is not.
    """
    try:
        _compile(template, True)
    except UserError as error:
        raise UserError(str(error).replace("prompt.template", key, 1)) from error


def fill_template(template: str, columns: dict[str, Any], literals: bool = True) -> str:
    """Return the text of `template` over `columns`; without `literals` only what comes from the
    columns.

    Raises:
        UserError: the template is not valid Jinja2.
        jinja2.UndefinedError: it uses a variable that `columns` lacks.
        jinja2.TemplateError: it fails otherwise, also where it becomes too large or takes too long.
    """
    return render(_compile(template, literals), columns, template)


@lru_cache(maxsize=32)
def _list_literals(template: str) -> tuple[str, ...]:
    parts = _parse(template).find_all(nodes.TemplateData)
    return tuple(part.data for part in parts if part.data.strip())


def drop_literals(template: str, text: str) -> str:
    """Return `text`, which `template` filled, without the template's own words as far as they are
    found in their order: nearly what `fill_template` gives without `literals`.
    """
    kept = []
    for literal in _list_literals(template):
        before, found, after = text.partition(literal)
        if found:
            kept.append(before)
            text = after
    return " ".join([*kept, text])


@lru_cache(maxsize=32)
def list_variables(template: str) -> frozenset[str]:
    """Return the names that the template takes from outside."""
    return frozenset(meta.find_undeclared_variables(_parse(template)) - set(_environment().globals))


@lru_cache(maxsize=32)
def tests_variable(template: str, name: str) -> bool:
    """Return whether an {% if %} of the template tests the variable, and so defines what happens to
    an empty one.
    """
    branches: list[Any] = list(_parse(template).find_all((nodes.If, nodes.CondExpr)))
    tests = [branch.test for branch in branches]
    return any(
        each.name == name
        for test in tests
        for each in (test, *test.find_all(nodes.Name))
        if isinstance(each, nodes.Name)
    )


def find_ending(template: str) -> str:
    r"""Return the fixed text after the template's last expression, such as "\n\nSummarize it."."""
    body = _parse(template).body
    last = body[-1] if body else None
    if isinstance(last, nodes.Output) and isinstance(last.nodes[-1], nodes.TemplateData):
        return last.nodes[-1].data
    return ""
