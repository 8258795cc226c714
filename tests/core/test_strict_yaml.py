"""YAML that reads back equal, by our reading of it and by that of other programs."""

from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atgen_ray.core.errors import UserError
from atgen_ray.core.strict_yaml import dump_yaml, parse_yaml

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.from_regex(
    r"[-+]?[0-9_.]{0,4}([eE:x][-+]?[0-9]{0,3})?|yes|no|on|off|[~=<!&*?|>%@`'\"{}\[\],#: -]{1,4}",
    fullmatch=True,
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
)


@settings(deadline=None)
@given(VALUES)
@example("\x85")
@example(
    {
        "a": "1e3",
        "b": "010",
        "c": "off",
        "d": "12:30",
        "e": "0x1F",
        "f": "1_000",
        "g": ".inf",
        "h": "2024-01-01",
    }
)
def test_plain_data_reads_back_equal(value: Any) -> None:
    text = dump_yaml(value)
    for reading in (
        parse_yaml(text, "it"),
        yaml.safe_load(text),
        parse_yaml(dump_yaml(value, one_line=True), "it"),
    ):
        assert repr(reading) == repr(value)  # 1, 1.0 and true are equal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("+3", 3),
        ("010", "010"),
        ("0o17", "0o17"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("1e", "1e"),
        (".", "."),
        ("on", "on"),
        ("No", "No"),
        ("True", True),
        ("~", None),
        ("", None),
        (".inf", ".inf"),
        ("2024-01-01", "2024-01-01"),
        ("=", "="),
    ],
)
def test_a_scalar_means_what_it_looks_like(text: str, value: Any) -> None:
    assert repr(parse_yaml(text, "it")) == repr(value)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_plain_data_or_one_line(text: str) -> None:
    value, message = None, "it is not valid YAML"
    try:
        value = parse_yaml(text, "it")
    except UserError as error:
        message = str(error)
    assert value is None or isinstance(value, str | int | float | bool | list | dict)
    assert message.startswith("it is not valid YAML")
    assert len(message.splitlines()) == 1
