"""Limits that a provider keeps or ignores, learnt from what comes back: room in its queue of
batches, and the length of its answers.
"""

from atgen_ray.core.machine import machine


class BatchQueue:
    """Room in a provider's queue of batches, which it limits by their tokens.

    While batches of this run are under way, the next one waits for them. Where none is, the queue
    is full of others, or the batch alone is above the limit: the next one is half as large.
    """

    def __init__(self, rows: int) -> None:
        """`rows` is the number of requests in the largest shard."""
        self._most = rows
        self.rows = rows  # of the next shard
        self.full = False  # wait for shards under way
        self._since: float | None = None  # monotonic time since when nothing was taken

    @property
    def waited(self) -> float:
        """Return the seconds for which the provider has taken nothing."""
        return 0.0 if self._since is None else machine().monotonic() - self._since

    def turn_away(self, alone: bool) -> None:
        """Take note that the provider did not take a shard; `alone`: none of ours is there."""
        self.full = not alone
        self._since = self._since or machine().monotonic()
        if alone:
            self.rows = max(1, self.rows // 2)

    def take(self) -> None:
        """Take note that a shard has come back from the queue, which has left room."""
        self.full = False
        self._since = None
        self.rows = min(self._most, self.rows * 2)


class AnswerLength:
    """Whether the provider keeps to the output tokens that are asked for (`ignored`), and those of
    the longest answer beyond the most that is ever asked for (`excess`).
    """

    def __init__(self, longest: int | None) -> None:
        """`longest` is the most that a request asks for; None: any."""
        self._longest = longest
        self.excess = 0
        self.ignored = False
        self._warned = False

    def watch(self, tokens: int | None, asked: int | None = None) -> None:
        """Take note of an answer to a request for at most `asked` tokens (None: the most)."""
        if self._longest is None or tokens is None:
            return
        self.excess = max(self.excess, tokens - self._longest)
        # Another way of counting the last tokens explains a few more.
        self.ignored |= tokens > 1.1 * (asked or self._longest)

    def warn(self, provider: str) -> str | None:
        """Return what the user should know, the first time; None where there is nothing to say."""
        if not self.ignored or self._warned:
            return None
        self._warned = True
        return (
            f"{provider} bills answers of more than {self._longest} tokens, which "
            f"annotator.max_output_tokens does not allow: from here on one request is sent at a "
            f"time, and what the longest has cost is held for each"
        )
