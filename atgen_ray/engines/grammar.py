"""Grammars that an output must follow: any JSON object, or a JSON Schema. llguidance says which
tokens may come next; an engine adds nothing but its own logits.

Example:
    grammar = Grammars(tokenizer).compile({"type": "object"})
    follower = grammar.start()
    logits[~follower.allowed(len(logits))] = -inf
    over = follower.accept(token)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from atgen_ray.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


class GrammarError(UserError):
    """A schema is none, or uses what no grammar can express."""


class Grammars:
    """The grammars of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: a fast tokenizer of transformers. It is read when the first grammar is
        compiled, for about a second.
        """
        self._tokenizer = tokenizer

    @cached_property
    def _vocabulary(self) -> Any:
        import llguidance.hf

        return llguidance.hf.from_tokenizer(self._tokenizer)

    def compile(self, schema: Mapping[str, Any]) -> "Grammar":
        """Return the grammar of a JSON Schema.

        Raises:
            GrammarError: the schema is none, or uses what no grammar can express.
        """
        from llguidance import LLMatcher

        try:
            text = LLMatcher.grammar_from_json_schema(
                json.dumps(schema),
                # A small model may put spaces between two values until it has no tokens left.
                defaults={
                    "whitespace_flexible": False,
                    "item_separator": ", ",
                    "key_separator": ": ",
                },
            )
            mistake = LLMatcher.validate_grammar(text, self._vocabulary)
        except ValueError as error:
            mistake = str(error)
        if mistake:
            raise GrammarError(f"the schema cannot be followed: {' '.join(mistake.split())[:300]}")
        return Grammar(json.dumps(schema), text, self._vocabulary)


@dataclass(frozen=True)
class Grammar:
    """A compiled grammar; `schema` is JSON text, for engines with a grammar engine of their own."""

    schema: str
    _text: str
    _vocabulary: Any

    def start(self) -> "Follower":
        """Return a follower at the beginning of an output."""
        from llguidance import LLMatcher

        return Follower(LLMatcher(self._vocabulary, self._text))


class Follower:
    """The state of one output under a grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self, size: int) -> "np.ndarray[Any, Any]":
        """Return which of `size` tokens may come next, as booleans (size,)."""
        import numpy as np

        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[:size].astype(bool)
        # A model may have more logits than its tokenizer has tokens.
        return np.pad(allowed, (0, size - len(allowed)))

    def accept(self, token: int) -> bool:
        """Take the next token; return whether the output is complete.

        Raises:
            RuntimeError: the token may not come here.
        """
        if not self._matcher.consume_token(token):
            raise RuntimeError(f"the grammar was left: {self._matcher.get_error()}")
        return bool(self._matcher.is_stopped())
