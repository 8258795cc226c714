"""Template of the user turn: sandboxed Jinja2, filled with a row's columns. Text of a row is never
a template.
"""

from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from atgen_ray.core.errors import UserError


class _Sandbox(ImmutableSandboxedEnvironment):
    """Sandbox without the two operators that make huge values out of small ones."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not all(isinstance(value, int | float) for value in (left, right)):
            raise SecurityError(
                f"the operator {operator} is not available here but for * between numbers"
            )
        return super().call_binop(context, operator, left, right)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Sandbox(undefined=jinja2.StrictUndefined)
    # A resumed run must build the same texts: nothing random.
    del environment.globals["lipsum"], environment.filters["random"]
    return environment


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
        return _environment().from_string(tree)
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
    """
    return _compile(template, literals).render(columns)


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
