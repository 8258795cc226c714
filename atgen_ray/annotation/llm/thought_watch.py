"""Notices a model whose first answers all end at their limit, mostly because it thinks that long:
the run pauses before the rest is billed, and billed again for the repair.
"""

from atgen_ray.annotation.providers.base import ParsedResponse

FIRST = 5  # answers


class ThoughtWatch:
    """Counts the answers of one process until one of them is whole."""

    def __init__(self) -> None:
        self._cut = 0
        self._silent = 0  # of these, without any text
        self._whole = False

    def note(self, answer: ParsedResponse) -> None:
        """Count an answer."""
        self._whole = self._whole or answer.finish != "length"
        self._cut += 1
        self._silent += not answer.text.strip()

    def find_reason(self, provider: str) -> str | None:
        """Return why the run must pause, or None."""
        if self._whole or self._cut < FIRST:
            return None
        what = (
            "spent all their tokens on thought and hold no text"
            if self._silent == self._cut
            else "were cut off"
        )
        return (
            f"the first {self._cut} answers of {provider} {what}: raise the annotator's "
            f"max_output_tokens, or lower its reasoning_effort; they are paid, and asked once more"
        )
