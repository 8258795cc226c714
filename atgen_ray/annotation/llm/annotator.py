"""Annotator backed by a language model: it turns examples into requests, and answers into labels.

Labels depend on the request log alone, so a run that dies at any point computes the same labels
from the same log.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from atgen_ray.annotation.context import AnnotationContext, SuspectLetter, is_confirmed
from atgen_ray.annotation.guidelines import Guidelines, find_guidelines, join_guidelines
from atgen_ray.annotation.llm.billing import BillingPolicy
from atgen_ray.annotation.llm.dispatcher import DispatchOutcome, RequestDispatcher
from atgen_ray.annotation.llm.error_policy import Timeouts
from atgen_ray.annotation.llm.injection import Suspicion, find_suspicions
from atgen_ray.annotation.llm.prompts import JUDGED, PromptWriter
from atgen_ray.annotation.llm.request_log import RequestLog
from atgen_ray.annotation.llm.request_records import RequestRecord
from atgen_ray.annotation.llm.votes import Vote, VoteReader
from atgen_ray.annotation.providers.base import Provider
from atgen_ray.annotation.request import PROBE, AnnotationRequest
from atgen_ray.config import HumanAnnotatorConfig, LLMAnnotatorConfig, list_annotators
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.money import NANO
from atgen_ray.core.records import Annotation, DeadLetter
from atgen_ray.store.ledger import read_paid

REPAIR = (
    "Your earlier answer to this example could not be used: {fault}. Answer again, with the "
    "label alone."
)
COMPARED = 1000  # labels of earlier rounds that those of a round are compared with


class LLMAnnotator:
    """Requests votes for each example, checks the answers, requests a repair of each unusable one
    once, and counts the votes.

    An answer that cannot be parsed was paid for, so it is not requested again.
    """

    def __init__(
        self,
        config: LLMAnnotatorConfig,
        context: AnnotationContext,
        provider: Provider,
        billing: BillingPolicy,
        timeouts: Timeouts,
        name: str,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """`release` is called after each batch, whatever became of it."""
        self.name = name
        self._release = release
        self._config = config
        self._context = context
        self._provider = provider
        self._billing = billing
        self._votes = VoteReader(config, provider)
        self._request_log = RequestLog(
            context.journal, context.lease, context.ledger, name, context.round
        )
        self._dispatcher = RequestDispatcher(
            provider,
            self._request_log,
            billing,
            timeouts,
            context.progress,
            context.warn,
            context.report,
        )
        created = context.journal.run(context.lease.run).created
        origin = f"{context.lease.run}@{created!r}:{context.round}"
        self._guidelines = self._find_guidelines()
        joined = join_guidelines(config.guidelines, self._first_guidelines, self._guidelines)
        told = config.model_copy(update={"guidelines": joined})
        self._writer = PromptWriter(told, context.config.prompt, self._choose_shots(), origin)

    @property
    def _first_guidelines(self) -> str:
        """Return the configured guidelines of the people beside whom the model labels."""
        people = [
            annotator.guidelines
            for _, annotator in list_annotators(self._context.config.annotator)
            if isinstance(annotator, HumanAnnotatorConfig)
        ]
        return people[0] if people else ""

    def _find_guidelines(self) -> Guidelines | None:
        """Return the newest guidelines that somebody wrote before the round's first request.

        Later ones hold from the next round on, so that a run which is resumed asks what it would
        have asked, and an answer that is paid for is never asked for again.
        """
        began = self._request_log.find_start()
        with self._context.journal.database.reading() as connection:
            return find_guidelines(connection, self._context.lease.run, until=began)

    def annotate_batch(
        self, ids: Sequence[str], texts: Sequence[str]
    ) -> tuple[list[Annotation], list[DeadLetter]]:
        try:
            return self._annotate(ids, texts)
        finally:
            self._release()

    def _annotate(
        self, ids: Sequence[str], texts: Sequence[str]
    ) -> tuple[list[Annotation], list[DeadLetter]]:
        by_id = dict(zip(ids, texts, strict=True))
        requests = [
            AnnotationRequest(id_, vote, 0, self._writer.write(text))
            for id_, text in by_id.items()
            for vote in range(self._config.votes)
        ]
        probes = self._write_probes(by_id, self._choose_probed(ids))
        outcome = self._dispatcher.answer(requests + probes)
        limit = outcome.limit
        votes = self._votes.read(outcome, by_id)
        repairs = self._write_repairs(by_id, votes)
        if more := repairs + self._write_probes(by_id, self._choose_doubted(by_id, votes, outcome)):
            outcome = self._dispatcher.answer(more)
            limit = limit or outcome.limit
            votes = self._votes.read(outcome, by_id)
        suspicions = self._find_suspicions(by_id, votes, outcome)
        passed = self._read_probes(outcome, by_id)
        # An example with unsent requests and no label is neither labelled nor dead: a budget ran
        # out, and it may be requested in a later round.
        unsent = [
            request for request in requests + repairs if _is_unsent(outcome.rows.get(request.key))
        ]
        waiting = {request.example_id for request in unsent}
        labels = list[Annotation]()
        dead = list[DeadLetter]()
        dollars = read_paid(
            self._context.journal, self._context.lease.run, self.name, self._context.round
        )
        for id_ in ids:
            if good := [vote for vote in votes[id_] if vote.fault is None]:
                label = self._choose_label(id_, good, votes[id_], dollars[id_] / NANO)
                label = _note_doubts(label, suspicions.get(id_), passed.get(id_))
                if label.provenance.get("suspect") and self._config.suspects != "keep":
                    dead.append(_bury(label))
                else:
                    labels.append(label)
            elif votes[id_] and id_ not in waiting:
                dead.append(DeadLetter(id_, "annotation", self._votes.explain(votes[id_])))
        left = set(ids) - {label.id for label in labels} - {dead_letter.id for dead_letter in dead}
        missed = [request for request in unsent if request.example_id in left]
        worst = sum(
            self._billing.worst(request)
            for request in missed
            if request.example_id == missed[0].example_id
        )
        self._context.record_shortfall(limit, len(left), worst)
        return labels, dead

    def _write_repairs(
        self, texts: Mapping[str, str], votes: Mapping[str, Sequence[Vote]]
    ) -> list[AnnotationRequest]:
        """Return the repair requests: each names what was wrong with the earlier answer."""
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

    def _choose_label(
        self, id_: str, good: list[Vote], all_: list[Vote], dollars: float
    ) -> Annotation:
        """Return the label that the usable votes `good` elect; `all_` are all votes of the
        example.
        """
        chosen, confidence = self._votes.elect(good)
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
        if self._guidelines is not None:
            provenance["guidelines"] = self._guidelines.version
        if chosen.answer and chosen.answer.reasoning:
            provenance["reasoning"] = chosen.answer.reasoning
        return Annotation(id_, chosen.label, self.name, dollars, provenance)

    def _choose_probed(self, ids: Sequence[str]) -> Sequence[str]:
        """Return the examples to probe beside their first votes: all, or as many as there are to be
        worked examples, so that later rounds have some that passed.
        """
        count = {"all": len(ids), "suspects": self._config.shots, "off": 0}[self._config.probe]
        return sorted(ids, key=lambda id_: (self._draw(id_), id_))[:count]

    def _choose_doubted(
        self,
        texts: Mapping[str, str],
        votes: Mapping[str, Sequence[Vote]],
        outcome: DispatchOutcome,
    ) -> list[str]:
        """Return the examples whose suspicion a probe is to confirm or to dispel."""
        if self._config.probe == "off":
            return []
        return [
            id_
            for id_, suspicion in self._find_suspicions(texts, votes, outcome).items()
            if not suspicion.proven and (id_, PROBE, 0) not in outcome.rows
        ]

    def _write_probes(
        self, texts: Mapping[str, str], ids: Sequence[str]
    ) -> list[AnnotationRequest]:
        return [
            AnnotationRequest(id_, PROBE, 0, self._writer.write_probe(texts[id_])) for id_ in ids
        ]

    def _read_probes(self, outcome: DispatchOutcome, texts: Mapping[str, str]) -> dict[str, bool]:
        """Return whether each probed example passed; without an answer nothing is known."""
        found = dict[str, bool]()
        for (id_, vote, _), row in outcome.rows.items():
            if vote == PROBE and id_ in texts and row.state == "answered" and row.response:
                try:
                    answer = self._provider.read(row.response)
                except ValueError:
                    continue
                if answer.text.strip() and answer.finish in ("stop", "length"):
                    found[id_] = self._writer.passes_probe(texts[id_], answer.text)
        return found

    def _find_suspicions(
        self,
        texts: Mapping[str, str],
        votes: Mapping[str, Sequence[Vote]],
        outcome: DispatchOutcome,
    ) -> dict[str, Suspicion]:
        """Return the examples whose labels look commanded, beside all answers of the round and
        labels of earlier rounds.
        """
        answers = self._votes.elect_all(texts, votes)
        # Examples of the round that were labelled before a kill: their texts are not at hand.
        done = {
            id_: ""
            for id_, _, _ in sorted(outcome.rows)
            if id_ not in texts and not id_.startswith(JUDGED)
        }
        earlier = [*self._votes.elect_all(done, self._votes.read(outcome, done)).values()]
        earlier += [
            (self._context.texts[label.id], label.text)
            for label in self._context.labeled[-COMPARED:]
            if label.annotator == self.name and not label.provenance.get("suspect")
        ]
        return find_suspicions(answers, earlier)

    def _choose_shots(self) -> list[tuple[str, str]]:
        """Return confirmed labels to show in every prompt of the round, with their examples."""
        usable = [label for label in self._context.labeled if is_confirmed(label)]
        usable.sort(key=lambda label: (self._draw(label.id), label.id))
        return [
            (self._context.texts[label.id], label.text) for label in usable[: self._config.shots]
        ]

    def _draw(self, id_: str) -> int:
        """Return a number that puts examples in an order at random, another one in each round."""
        return mix_seed(self._context.config.seed, "shots", self._context.round, id_)


def _note_doubts(label: Annotation, suspicion: Suspicion | None, passed: bool | None) -> Annotation:
    """Return a label with what was found out about its example: the result of its `probe`, and why
    it is `suspect`, by a failed probe or signs of two kinds, or in `doubt`, by one sign that no
    probe has confirmed: then the label counts, but is never shown to a model.
    """
    noted = dict[str, str]()
    if passed is not None:
        noted["probe"] = "passed" if passed else "failed"
    if passed is False:
        noted["suspect"] = "the model followed the example and not the question when it was probed"
    elif suspicion is not None and suspicion.proven:
        noted["suspect"] = suspicion.reason
    elif suspicion is not None:
        noted["doubt"] = suspicion.reason
    return replace(label, provenance=label.provenance | noted)


def _bury(label: Annotation) -> SuspectLetter:
    """Return the dead letter of an example that seems to have commanded its label."""
    reason = f"the example seems to command its label: {label.provenance['suspect']}"
    return SuspectLetter(label.id, "annotation", reason, label.text, label.provenance)


def _is_unsent(row: RequestRecord | None) -> bool:
    """Return whether a request was never sent, or ended unanswered and waits to be sent again."""
    return row is None or row.state == "unanswered"
