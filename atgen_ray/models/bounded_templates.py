"""Jinja2 in a sandbox that bounds size and time: no template makes a huge value out of a small one,
or never ends.

Each rendering has a budget of characters. Every step pays before it is done: an iteration and a
call the size of the template; a filter, a call and an operator the size of their values and of what
they will make. What is paid bounds both memory and time. A clock is looked at as well.

A value is measured deeply, as it may hold the same value many times: a list that holds another one
twice, which holds another one twice, thirty times over, is small in memory and huge as a text.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

MOST = 1 << 26  # characters of one rendering
MOST_PARTS = 1 << 20  # values within a value
SECONDS = 5.0
INT_BITS = 4096
WIDEST = 1_000_000  # of an integer that is given to a method or filter
DIGITS = re.compile(r"\d{6,}|\*")  # widths of formats


@dataclass
class Budget:
    """What one rendering may still make."""

    step: int = 1  # characters that an iteration or a call costs: those of the template
    left: int = MOST
    end: float = field(default_factory=lambda: time.monotonic() + SECONDS)

    def pay(self, amount: int) -> None:
        """Raise SecurityError where the rendering becomes too large or too long."""
        self.left -= amount + 1
        if self.left < 0:
            raise SecurityError(f"the template makes more than {MOST >> 20} million characters")
        if time.monotonic() > self.end:
            raise SecurityError(f"the template takes more than {SECONDS:g} seconds")


_budget: ContextVar[Budget | None] = ContextVar("budget", default=None)


def _pay(amount: int) -> Budget:
    budget = _budget.get() or Budget()
    budget.pay(amount)
    return budget


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """Sandbox whose templates are rendered by `render`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        # Without the optimizer, which would compute constant expressions as it compiles.
        super().__init__(undefined=jinja2.StrictUndefined, optimized=False, finalize=_pay_output)
        # A resumed run must build the same texts: nothing random.
        del self.globals["lipsum"], self.filters["random"]
        self.filters |= {name: _bound_filter(name, each) for name, each in self.filters.items()}
        self.filters["bounded"] = _bound_loop

    def bound(self, tree: nodes.Template) -> nodes.Template:
        """Change a parsed template so that its loops and joined texts are paid for."""
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "bounded", [], [], None, None)
        _split_concatenations(tree)
        tree.set_environment(self)
        return tree

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = all(isinstance(value, int | float) for value in (left, right))
        if operator == "**" or (operator == "*" and not numbers):
            raise SecurityError(
                f"the operator {operator} is not available here but for * between numbers"
            )
        if operator == "%" and isinstance(left, str | bytes):
            _pay(_estimate_format(left, [right]))
        else:
            _pay(measure(left) + measure(right))
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and result.bit_length() > INT_BITS:
            raise SecurityError("a number has more digits than are available here")
        return result

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget = _pay(0)
        given = [*args, *kwargs.values()]
        budget.pay(budget.step + sum(map(measure, given)))
        if isinstance(obj, LoopContext) and args:
            args = (_bound_loop(args[0]), *args[1:])
        self_ = getattr(obj, "__self__", None)
        if isinstance(self_, str | bytes | int | float | list | tuple | dict):
            name = getattr(obj, "__name__", "")
            budget.pay(_estimate_method(name, self_, given))
        result = super().call(context, obj, *args, **kwargs)
        budget.pay(measure(result))
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        template = value.__self__

        def format(*args: Any, **kwargs: Any) -> str:
            _pay(_estimate_format(template, [*args, *kwargs.values()]))
            return wrapped(*args, **kwargs)

        return format

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, slice):
            _pay(measure(obj))
        return super().getitem(obj, argument)


def render(template: jinja2.Template, columns: Mapping[str, Any], source: str) -> str:
    """Return the text of `template`, whose source is `source`, over `columns`.

    Raises:
        jinja2.TemplateError: among them SecurityError where it becomes too large or too long.
    """
    token = _budget.set(Budget(step=len(source)))
    try:
        return template.render(columns)
    except RecursionError:
        raise SecurityError("the template calls itself too deeply") from None
    finally:
        _budget.reset(token)


def measure(value: Any) -> int:
    """Return the characters of a value as a text, at least, and more than MOST for one that has
    more.
    """
    if isinstance(value, str | bytes):
        return len(value)
    total = parts = 0
    waiting = [value]
    while waiting:
        each = waiting.pop()
        parts += 1
        total += len(each) if isinstance(each, str | bytes) else 1
        if isinstance(each, Mapping):
            waiting += each.keys()
            waiting += each.values()
        elif isinstance(each, list | tuple | set | frozenset):
            waiting += each
        if total > MOST or parts + len(waiting) > MOST_PARTS:
            return MOST + 1
    return total


def _pay_output(value: Any) -> Any:
    _pay(measure(value))
    return value


def _bound_loop(items: Any) -> Any:
    """Pay for every iteration over `items`."""
    if isinstance(items, Undefined):
        return items  # whose use raises the error that names it
    budget = _pay(0)

    def each() -> Iterator[Any]:
        for item in items:
            budget.pay(budget.step)
            yield item

    # With its length, `loop.length` needs no list of all.
    return list(each()) if hasattr(items, "__len__") else each()


def _bound_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the filter, which pays for its values first and for its result then."""
    skipped = 0 if getattr(function, "jinja_pass_arg", None) is None else 1

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        budget = _pay(0)
        # What is made as it is read could not be measured.
        before, given = list(args[:skipped]), [_gather(each) for each in args[skipped:]]
        values = [*given, *kwargs.values()]
        budget.pay(sum(map(measure, values)))
        budget.pay(_estimate_filter(name, values))
        result = _gather(function(*before, *given, **kwargs))
        budget.pay(measure(result))
        return result

    return bounded


def _gather(value: Any) -> Any:
    """Return a list of what an iterator yields, each item paid for; any other value as it is."""
    if not isinstance(value, Iterator):
        return value
    items = []
    for item in value:
        _pay(measure(item))
        items.append(item)
    return items


def _estimate_filter(name: str, values: list[Any]) -> int:
    """Return the most characters that a filter makes of its values."""
    first, *more = values or [None]
    _check_integers(more)
    sizes = [abs(each) if isinstance(each, int) else measure(each) for each in more]
    largest = max(sizes, default=0)
    if name == "format":
        return _estimate_format(str(first), more)
    if name in ("indent", "tojson", "pprint"):  # a width, or a text, before each line
        lines = first.count("\n") + 1 if isinstance(first, str) else measure(first)
        return lines * (largest or 4)
    if name in ("replace", "wordwrap", "urlize"):
        return _estimate_replace(first, more)
    if name in ("join", "xmlattr", "batch", "slice", "center", "sum"):
        count = len(first) if name in ("join", "sum") and hasattr(first, "__len__") else 1
        return count * largest + largest
    return 0


def _estimate_method(name: str, self: Any, given: list[Any]) -> int:
    """Return the most characters that a method of a plain value makes."""
    _check_integers(given)
    widths = [abs(each) for each in given if isinstance(each, int)]
    if name in ("format", "format_map"):
        return _estimate_format(self, given)
    if name == "translate":
        raise SecurityError("the method translate is not available here")
    if name == "replace":
        return _estimate_replace(self, given)
    if name == "join":
        items = given[0] if given and hasattr(given[0], "__len__") else []
        return len(items) * measure(self)
    if name == "expandtabs":
        return measure(self) * max(widths, default=8)
    return max(widths, default=0)


def _estimate_replace(text: Any, given: list[Any]) -> int:
    """An empty text is found between all characters."""
    texts = [each for each in given if isinstance(each, str | bytes)]
    if len(texts) < 2 or not isinstance(text, str | bytes):
        return measure(text) * max(map(len, texts), default=1)
    old, new = texts[:2]
    # As many as there can be, without a look: `text` may be anything else's kind.
    return (len(text) // max(1, len(old)) + 1) * len(new)


def _estimate_format(template: Any, given: list[Any]) -> int:
    text = template.decode("latin-1") if isinstance(template, bytes) else str(template)
    if DIGITS.search(text):
        raise SecurityError("a format has a width that is not available here")
    if "{" in re.sub(r"\{[^{}]*\}", "", text).replace("{{", ""):
        raise SecurityError("a format within a format is not available here")
    widest = max((int(digits) for digits in re.findall(r"\d+", text)), default=0)
    largest = sum(map(measure, given)) + widest
    return len(text) + (text.count("%") + text.count("{")) * largest


def _check_integers(given: Iterable[Any]) -> None:
    for each in given:
        if isinstance(each, int) and abs(each) > WIDEST:
            raise SecurityError(f"a number above {WIDEST:,} is not available here")


def _split_concatenations(tree: nodes.Node) -> None:
    """Replace each `a ~ b` by `a|string + b|string`: Jinja2 joins the former unasked."""
    for name in tree.fields:
        value = getattr(tree, name, None)
        parts = value if isinstance(value, list) else [value]
        changed = [_split(part) if isinstance(part, nodes.Node) else part for part in parts]
        setattr(tree, name, changed if isinstance(value, list) else changed[0])


def _split(node: nodes.Node) -> nodes.Node:
    _split_concatenations(node)
    if not isinstance(node, nodes.Concat):
        return node
    texts = [nodes.Filter(each, "string", [], [], None, None) for each in node.nodes]
    joined: nodes.Expr = texts[0]
    for text in texts[1:]:
        joined = nodes.Add(joined, text)
    return joined
