"""Language models as annotators: from examples to questions, from answers to labels.

Labels are computed from the book of requests alone; a run that dies anywhere computes the same ones from the same book.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from atgen_ray.annotation.book import Book, Row
from atgen_ray.annotation.checks import find_fault, is_suspect, obeys, read_label
from atgen_ray.annotation.decisions import Patience
from atgen_ray.annotation.engine import Engine, Outcome, Terms
from atgen_ray.annotation.providers import Answer, Provider
from atgen_ray.annotation.requests import Ask, PromptWriter
from atgen_ray.annotation.site import Site
from atgen_ray.annotation.votes import count_votes
from atgen_ray.budget import NANO, read_paid
from atgen_ray.config import LanguageAnnotatorConfig
from atgen_ray.errors import UserError
from atgen_ray.records import Annotation, DeadLetter
from atgen_ray.seeds import mix_seed

REPAIR = "Your earlier answer to this example could not be used: {fault}. Answer again, with the label alone."


@dataclass(frozen=True)
class Vote:
    """One answer to one question: its label, or what is wrong with it."""

    row: Row
    label: str
    fault: str | None
    answer: Answer | None


class LanguageAnnotator:
    """Asks a model for each example, checks the answers, asks once more for bad ones, and counts votes.

    An answer that cannot even be read was paid for, so it is not asked for again.
    """

    def __init__(
        self,
        config: LanguageAnnotatorConfig,
        site: Site,
        provider: Provider,
        terms: Terms,
        patience: Patience,
        name: str,
    ) -> None:
        self.name = name
        self._config, self._site, self._provider, self._terms = config, site, provider, terms
        self._book = Book(site.journal, site.lease, site.ledger, name, site.round)
        self._engine = Engine(provider, self._book, terms, patience, site.progress)
        self._writer = PromptWriter(config, site.config.prompt, self._choose_shots())

    def annotate_batch(self, ids: Sequence[str], texts: Sequence[str]) -> tuple[list[Annotation], list[DeadLetter]]:
        by_id = dict(zip(ids, texts, strict=True))
        asks = [
            Ask(id_, vote, 0, self._writer.write(text))
            for id_, text in by_id.items()
            for vote in range(self._config.votes)
        ]
        outcome = self._engine.answer(asks)
        votes = self._read_votes(outcome, by_id)
        if self._config.repair:
            repairs = [
                Ask(id_, vote.row.key[1], 1, self._writer.write(by_id[id_], REPAIR.format(fault=vote.fault)))
                for id_ in ids
                for vote in votes[id_]
                if vote.fault is not None and vote.answer is not None
            ]
            if repairs:
                votes = self._read_votes(self._engine.answer(repairs), by_id)
        labels, dead = list[Annotation](), list[DeadLetter]()
        dollars = read_paid(self._site.journal, self._site.lease.run, self.name, self._site.round)
        for id_ in ids:
            if good := [vote for vote in votes[id_] if vote.fault is None]:
                labels.append(self._elect(id_, by_id[id_], good, votes[id_], dollars[id_] / NANO))
            elif votes[id_]:
                dead.append(DeadLetter(id_, "annotation", self._explain(votes[id_])))
        self._check_round_budget(outcome, asks)
        self._site.note_limit(outcome.limit, sum(not votes[id_] for id_ in ids))
        return labels, dead

    def _check_round_budget(self, outcome: Outcome, asks: list[Ask]) -> None:
        if outcome.limit == "round" and not outcome.rows:
            limit = self._site.config.stopping.dollars_per_round
            least = min(self._terms.worst(ask) for ask in asks) / NANO
            raise UserError(
                f"stopping.dollars_per_round is {limit}, expected at least {least:.6f}, which one label can cost"
            )

    def _read_votes(self, outcome: Outcome, texts: dict[str, str]) -> dict[str, list[Vote]]:
        """The last answer to each vote, of those that were answered or failed for good."""
        votes: dict[str, dict[int, Vote]] = defaultdict(dict)
        for (id_, vote, _), row in sorted(outcome.rows.items()):  # a repair follows what it mends
            if id_ in texts and row.state in ("answered", "refused", "lost"):
                earlier = votes[id_].get(vote)
                if row.state == "answered" or earlier is None:
                    votes[id_][vote] = self._judge(row, texts[id_])
        return {id_: [votes[id_][vote] for vote in sorted(votes[id_])] for id_ in texts}

    def _judge(self, row: Row, text: str) -> Vote:
        if row.state != "answered" or row.response is None:
            return Vote(row, "", row.reason or row.state, None)
        try:
            answer = self._provider.read(row.response)
        except ValueError as error:
            return Vote(row, "", f"malformed answer: {error}", None)
        if not answer.text.strip() and answer.finish == "stop":
            return Vote(row, "", "it is empty", answer)
        label, fault = read_label(answer.text, self._config)
        if answer.finish == "stop" and fault is None and is_suspect(text) and obeys(text, label):
            fault = "the label repeats what the example commands"
        fault = (
            fault if answer.finish == "stop" and fault else find_fault(text, label, answer.finish, self._config.checks)
        )
        return Vote(row, label, fault, answer)

    def _elect(self, id_: str, text: str, good: list[Vote], all_: list[Vote], dollars: float) -> Annotation:
        winner, confidence = count_votes([vote.label for vote in good], self._config.votes, self._config.agreement)
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
        if is_suspect(text):
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
        usable = [label for label in self._site.labeled if not is_suspect(self._site.texts[label.id])]
        usable.sort(key=lambda label: (mix_seed(seed, "shots", self._site.round, label.id), label.id))
        return [(self._site.texts[label.id], label.text) for label in usable[: self._config.shots]]
