"""JSON as it is stored: strict, and the same for equal values."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from atgen_ray.core.strict_json import encode_json

ANY_TEXT = st.text(
    st.characters(codec=None, exclude_categories=[])
)  # lone surrogates and controls too
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
)


@given(VALUES)
def test_values_come_back_and_order_does_not_matter(value: object) -> None:
    text = encode_json(value)
    assert json.loads(text.encode()) == value
    assert "\n" not in text
    if isinstance(value, dict):
        assert encode_json(dict(reversed(value.items()))) == text


def test_what_json_lacks_becomes_null() -> None:
    assert encode_json({"b": [math.nan, (math.inf, 1.5)], "a": {"x": -math.inf}}) == (
        '{"a": {"x": null}, "b": [null, [null, 1.5]]}'
    )
