"""Language models as annotators: from examples to questions, from answers to labels.

Labels are computed from the book of requests alone; a run that dies anywhere computes the same ones
from the same book.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.llm.dispatcher import BillingPolicy, DispatchOutcome, RequestDispatcher
from atgen_ray.annotation.llm.error_policy import Timeouts
from atgen_ray.annotation.llm.label_checks import (
    find_fault,
    follows_injection,
    looks_like_injection,
    read_label,
)
from atgen_ray.annotation.llm.prompts import PromptWriter
from atgen_ray.annotation.llm.request_log import RequestLog, RequestRecord
from atgen_ray.annotation.llm.voting import count_votes
from atgen_ray.annotation.providers.base import ParsedResponse, Provider
from atgen_ray.annotation.request import AnnotationRequest
from atgen_ray.config import LLMAnnotatorConfig
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.money import NANO
from atgen_ray.core.records import Annotation, DeadLetter
from atgen_ray.store.ledger import read_paid

REPAIR = (
    "Your earlier answer to this example could not be used: {fault}. Answer again, with the "
    "label alone."
)


@dataclass(frozen=True)
class Vote:
    """One answer to one question: its label, or what is wrong with it."""

    row: RequestRecord
    label: str
    fault: str | None
    answer: ParsedResponse | None


class LLMAnnotator:
    """Asks a model for each example, checks the answers, asks once more for bad ones, and counts
    votes.

    An answer that cannot even be read was paid for, so it is not asked for again.
    """

    def __init__(
        self,
        config: LLMAnnotatorConfig,
        site: AnnotationContext,
        provider: Provider,
        terms: BillingPolicy,
        patience: Timeouts,
        name: str,
    ) -> None:
        self.name = name
        self._config = config
        self._site = site
        self._provider = provider
        self._terms = terms
        self._book = RequestLog(site.journal, site.lease, site.ledger, name, site.round)
        self._engine = RequestDispatcher(provider, self._book, terms, patience, site.progress)
        self._writer = PromptWriter(config, site.config.prompt, self._choose_shots())

    def annotate_batch(
        self, ids: Sequence[str], texts: Sequence[str]
    ) -> tuple[list[Annotation], list[DeadLetter]]:
        by_id = dict(zip(ids, texts, strict=True))
        asks = [
            AnnotationRequest(id_, vote, 0, self._writer.write(text))
            for id_, text in by_id.items()
            for vote in range(self._config.votes)
        ]
        outcome = self._engine.answer(asks)
        limit = outcome.limit
        votes = self._read_votes(outcome, by_id)
        if repairs := self._write_repairs(by_id, votes):
            outcome = self._engine.answer(repairs)
            limit = limit or outcome.limit
            votes = self._read_votes(outcome, by_id)
        unsent = [ask for ask in asks + repairs if _is_unsent(outcome.rows.get(ask.key))]
        waiting = {ask.example_id for ask in unsent}
        labels = list[Annotation]()
        dead = list[DeadLetter]()
        dollars = read_paid(self._site.journal, self._site.lease.run, self.name, self._site.round)
        for id_ in ids:
            if good := [vote for vote in votes[id_] if vote.fault is None]:
                labels.append(self._elect(id_, by_id[id_], good, votes[id_], dollars[id_] / NANO))
            elif votes[id_] and id_ not in waiting:
                dead.append(DeadLetter(id_, "annotation", self._explain(votes[id_])))
        left = set(ids) - {label.id for label in labels} - {letter.id for letter in dead}
        missed = [ask for ask in unsent if ask.example_id in left]
        worst = sum(
            self._terms.worst(ask) for ask in missed if ask.example_id == missed[0].example_id
        )
        self._site.note_limit(limit, len(left), worst)
        return labels, dead

    def _write_repairs(
        self, texts: Mapping[str, str], votes: Mapping[str, Sequence[Vote]]
    ) -> list[AnnotationRequest]:
        """The questions to ask once more, each with what was wrong with its answer."""
        if not self._config.repair:
            return []
        return [
            AnnotationRequest(
                id_, vote.row.key[1], 1, self._writer.write(text, REPAIR.format(fault=vote.fault))
            )
            for id_, text in texts.items()
            for vote in votes[id_]
            if vote.fault is not None and vote.answer is not None
        ]

    def _read_votes(self, outcome: DispatchOutcome, texts: dict[str, str]) -> dict[str, list[Vote]]:
        """The last answer to each vote, of those that were answered or failed for good."""
        votes: dict[str, dict[int, Vote]] = defaultdict(dict)
        for (id_, vote, _), row in sorted(outcome.rows.items()):  # a repair follows what it mends
            if id_ in texts and row.state in ("answered", "refused", "lost"):
                earlier = votes[id_].get(vote)
                if row.state == "answered" or earlier is None:
                    votes[id_][vote] = self._judge(row, texts[id_])
        return {id_: [votes[id_][vote] for vote in sorted(votes[id_])] for id_ in texts}

    def _judge(self, row: RequestRecord, text: str) -> Vote:
        if row.state != "answered" or row.response is None:
            return Vote(row, "", row.reason or row.state, None)
        try:
            answer = self._provider.read(row.response)
        except ValueError as error:
            return Vote(row, "", f"malformed answer: {error}", None)
        if not answer.text.strip() and answer.finish == "stop":
            return Vote(row, "", "it is empty", answer)
        label, fault = read_label(answer.text, self._config)
        if (
            answer.finish == "stop"
            and fault is None
            and looks_like_injection(text)
            and follows_injection(text, label)
        ):
            fault = "the label repeats what the example commands"
        fault = (
            fault
            if answer.finish == "stop" and fault
            else find_fault(text, label, answer.finish, self._config.checks)
        )
        return Vote(row, label, fault, answer)

    def _elect(
        self, id_: str, text: str, good: list[Vote], all_: list[Vote], dollars: float
    ) -> Annotation:
        winner, confidence = count_votes(
            [vote.label for vote in good], self._config.votes, self._config.agreement
        )
        chosen = good[winner]
        tokens = [(vote.row.prompt_tokens or 0, vote.row.output_tokens or 0) for vote in all_]
        provenance = {
            "model": (chosen.row.response or {}).get("model") or self.name,
            "prompt_hash": chosen.row.prompt_hash,
            "request": chosen.row.custom_id,
            "prompt_tokens": sum(prompt for prompt, _ in tokens),
            "output_tokens": sum(output for _, output in tokens),
            "when": chosen.row.time,
            "votes": len(good),
            "confidence": round(confidence, 4) if self._config.votes > 1 else None,
            "repaired": chosen.row.key[2] > 0,
        }
        if looks_like_injection(text):
            provenance["suspect"] = True
        if chosen.answer and chosen.answer.reasoning:
            provenance["reasoning"] = chosen.answer.reasoning
        return Annotation(id_, chosen.label, self.name, dollars, provenance)

    def _explain(self, votes: list[Vote]) -> str:
        faults = dict.fromkeys(vote.fault for vote in votes if vote.fault)
        repaired = " (also when asked again)" if any(vote.row.key[2] for vote in votes) else ""
        return f"no answer was usable{repaired}: {'; '.join(faults)}"

    def _choose_shots(self) -> list[tuple[str, str]]:
        """Labelled examples to show, the same for all of a round; none that speaks to the model."""
        seed = self._site.config.seed
        usable = [
            label
            for label in self._site.labeled
            if not looks_like_injection(self._site.texts[label.id])
        ]
        usable.sort(
            key=lambda label: (mix_seed(seed, "shots", self._site.round, label.id), label.id)
        )
        return [(self._site.texts[label.id], label.text) for label in usable[: self._config.shots]]


def _is_unsent(row: RequestRecord | None) -> bool:
    """Whether a question was never sent, or came back without an answer and waits to be sent
    again.
    """
    return row is None or row.state == "unanswered"
