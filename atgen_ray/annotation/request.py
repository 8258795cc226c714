"""Request to an annotating model: its prompt, and the key that its answer is stored under."""

from dataclasses import dataclass
from typing import Any

from atgen_ray.core.hashing import hash_text
from atgen_ray.core.strict_json import encode_json

Turn = tuple[str, str]  # role and text

Key = tuple[str, int, int]  # example, vote, repair

PROBE = -1  # in place of a vote: a question that finds out whether the example commands the model


@dataclass(frozen=True)
class Prompt:
    """Prompt of one request: a system turn, worked examples, and the question as the last turn.

    `schema` is the JSON schema of its answer, None for plain text.
    """

    system: str
    turns: tuple[Turn, ...]
    schema: dict[str, Any] | None = None

    @property
    def hash(self) -> str:
        """Return the digest of the prompt; equal prompts have equal digests."""
        return hash_text(encode_json([self.system, self.turns]))

    @property
    def tokens_at_most(self) -> int:
        """Return an upper bound of the prompt's tokens for any tokenizer: each token is at least
        one byte, and a turn has a few special tokens around it.
        """
        texts = [self.system, *(text for _, text in self.turns)]
        return sum(len(text.encode()) for text in texts) + 16 * len(texts) + 64

    @property
    def shared_bytes(self) -> int:
        """Return the bytes of the system turn and the worked examples, which all prompts of a
        round share.
        """
        return sum(len(text.encode()) for text in (self.system, *(t for _, t in self.turns[:-1])))


@dataclass(frozen=True)
class AnnotationRequest:
    """One question: vote number `vote` on an example, or a PROBE. `repair` is 1 where an earlier
    answer was unusable. `output_limit` is the longest answer in tokens; None: as the configuration
    says.
    """

    example_id: str
    vote: int
    repair: int
    prompt: Prompt
    output_limit: int | None = None

    @property
    def key(self) -> Key:
        """Return the key of the request within one annotator and round."""
        return self.example_id, self.vote, self.repair
