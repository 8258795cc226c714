"""Votes of a language model: the answers to the questions about an example, read and counted."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atgen_ray.annotation.llm.dispatcher import DispatchOutcome
from atgen_ray.annotation.llm.label_checks import find_fault, read_label
from atgen_ray.annotation.llm.request_records import RequestRecord
from atgen_ray.annotation.llm.voting import count_votes
from atgen_ray.annotation.providers.base import ParsedResponse, Provider
from atgen_ray.annotation.request import PROBE
from atgen_ray.config import LLMAnnotatorConfig


@dataclass(frozen=True)
class Vote:
    """One answer to one question: its label, or the reason why it has none."""

    row: RequestRecord
    label: str
    fault: str | None
    answer: ParsedResponse | None


class VoteReader:
    """Reads the stored answers of a provider as the votes that the configuration asks for."""

    def __init__(self, config: LLMAnnotatorConfig, provider: Provider) -> None:
        self._config = config
        self._provider = provider

    def read(self, outcome: DispatchOutcome, texts: Mapping[str, str]) -> dict[str, list[Vote]]:
        """Return the last answer to each vote that was answered or failed for good, by example."""
        votes: dict[str, dict[int, Vote]] = defaultdict(dict)
        for (id_, vote, _), row in sorted(outcome.rows.items()):  # a repair follows what it mends
            if vote != PROBE and id_ in texts and row.state in ("answered", "refused", "lost"):
                earlier = votes[id_].get(vote)
                if row.state == "answered" or earlier is None:
                    votes[id_][vote] = self._check(row, texts[id_])
        return {id_: [votes[id_][vote] for vote in sorted(votes[id_])] for id_ in texts}

    def _check(self, row: RequestRecord, text: str) -> Vote:
        """Return the vote in a stored response, with the reason why it is unusable if it is."""
        if row.state != "answered" or row.response is None:
            return Vote(row, "", row.reason or row.state, None)
        try:
            answer = self._provider.read(row.response)
        except ValueError as error:
            return Vote(row, "", f"malformed answer: {error}", None)
        if not answer.text.strip() and answer.finish == "stop":
            return Vote(row, "", "it is empty", answer)
        label, fault = read_label(answer.text, self._config)
        fault = (
            fault
            if answer.finish == "stop" and fault
            else find_fault(text, label, answer.finish, self._config.checks)
        )
        return Vote(row, label, fault, answer)

    def elect(self, good: Sequence[Vote]) -> tuple[Vote, float]:
        """Return the vote that wins among usable ones, and the confidence in it."""
        winner, confidence = count_votes(
            [vote.label for vote in good], self._config.votes, self._config.agreement
        )
        return good[winner], confidence

    def elect_all(
        self, texts: Mapping[str, str], votes: Mapping[str, Sequence[Vote]]
    ) -> dict[str, tuple[str, str]]:
        """Return text and elected label of each example that has a usable answer."""
        found = {}
        for id_, text in texts.items():
            if good := [vote for vote in votes[id_] if vote.fault is None]:
                found[id_] = (text, self.elect(good)[0].label)
        return found

    def explain(self, votes: list[Vote]) -> str:
        """Return the reasons why no vote was usable, as one line."""
        faults = dict.fromkeys(vote.fault for vote in votes if vote.fault)
        repaired = " (also when asked again)" if any(vote.row.key[2] for vote in votes) else ""
        return f"no answer was usable{repaired}: {'; '.join(faults)}"
