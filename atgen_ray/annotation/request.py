"""What an annotating model is asked: its prompt, and the key that its answer is found by."""

import hashlib
from dataclasses import dataclass

from atgen_ray.core.strict_json import encode_json

Turn = tuple[str, str]  # role and text

Key = tuple[str, int, int]  # example, vote, repair


@dataclass(frozen=True)
class Prompt:
    """What the model is shown: a system turn, worked examples, and the question as the last
    turn.
    """

    system: str
    turns: tuple[Turn, ...]

    @property
    def hash(self) -> str:
        """The same for equal prompts."""
        return digest(encode_json([self.system, self.turns]))

    @property
    def tokens_at_most(self) -> int:
        """No tokenizer makes more tokens: each is at least a byte, and a turn has a few marks
        around it.
        """
        texts = [self.system, *(text for _, text in self.turns)]
        return sum(len(text.encode()) for text in texts) + 16 * len(texts) + 64


@dataclass(frozen=True)
class AnnotationRequest:
    """One question: vote number `vote` on an example, asked again (`repair` 1) after an answer that
    failed.
    """

    example_id: str
    vote: int
    repair: int
    prompt: Prompt

    @property
    def key(self) -> Key:
        return self.example_id, self.vote, self.repair


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
