"""Strict YAML: the values of JSON, read by the core schema of YAML 1.2.

PyYAML follows YAML 1.1, in which `off` is false, `1e-4` a string, `12:30` the number 750 and `010`
the number 8, and in which the last of two equal keys wins. Here `1e-4` is a number, the others are
text, and equal keys are an error. Tags, which can make objects, are refused.
"""

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode

from atgen_ray.core.errors import UserError

MOST_VALUES = 100_000  # in one document, each alias counted with the values that it stands for
SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "int": (r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    "float": (r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", "-+.0123456789"),
    "merge": (r"<<", "<"),
}


class _Loader(yaml.SafeLoader):
    """Loader with the scalars in SCALARS, which refuses equal keys and tags."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (as PyYAML declares it)

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()
        if getattr(event, "tag", None):
            raise ConstructorError(None, None, "tags, as !tag, are not supported", event.start_mark)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, ScalarNode) and key.value in seen:
                raise ConstructorError(
                    None, None, f"key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, ScalarNode) else id(key))
        return node

    def flatten_mapping(self, node: MappingNode) -> None:
        """Merge `<<` with each key once; merges of merges would otherwise grow exponentially."""
        super().flatten_mapping(node)
        keys = (key.value if isinstance(key, ScalarNode) else id(key) for key, _ in node.value)
        node.value = list(dict(zip(keys, node.value, strict=True)).values())


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes text which YAML 1.1 or 1.2 would read as something else."""

    def represent_str(self, data: str) -> ScalarNode:
        # PyYAML folds these line breaks wrongly except in double quotes, where it escapes them.
        style = '"' if {"\x85", "\u2028", "\u2029"} & set(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)
for _name, (_pattern, _first) in SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), list(_first)
        )


def dump_yaml(value: Any, one_line: bool = False) -> str:
    """Return plain data as YAML that `parse_yaml` and readers of YAML 1.1 read back equal; keys
    keep their order.
    """
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=one_line,
        sort_keys=False,
        allow_unicode=True,
        width=10_000,
    )
    return text.removesuffix("\n").removesuffix("\n...") if one_line else text


def parse_yaml(text: str, what: str, hint: str = "") -> Any:
    """Return the value of one YAML document; `what` names it in the error, which ends in `hint`.

    Raises:
        UserError: the text is not valid YAML. The message never quotes it: it may hold a secret.
    """
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
        _count(value, {})
        return value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{what} is not valid YAML{where}: {error.problem}{hint}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{what} is not valid YAML: it is nested too deeply") from None
    except ValueError as error:  # Python reads no integer of thousands of digits
        raise UserError(f"{what} is not valid YAML: {error}") from None


def _count(value: Any, known: dict[int, int]) -> int:
    """Return how many values `value` holds with all aliases written out; raise ValueError if there
    are more than MOST_VALUES.
    """
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 1  # ends the recursion of a value that contains itself
        known[id(value)] = 1 + sum(
            _count(item, known) for item in (value.values() if isinstance(value, dict) else value)
        )
        if known[id(value)] > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES} values")
    return known[id(value)]
