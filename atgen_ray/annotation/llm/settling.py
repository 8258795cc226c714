"""Settlement of replies: what became of each request of an ended shard, and what it cost."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from atgen_ray.annotation.llm.billing import BillingPolicy
from atgen_ray.annotation.llm.error_policy import ATTEMPTS, Timeouts, judge_reply
from atgen_ray.annotation.llm.prompts import JUDGED
from atgen_ray.annotation.llm.provider_limits import AnswerLength, BatchQueue
from atgen_ray.annotation.llm.request_records import RequestRecord, Settlement
from atgen_ray.annotation.llm.thought_watch import ThoughtWatch
from atgen_ray.annotation.providers.base import Provider, RawResponse, RequestAttempt, Shard
from atgen_ray.annotation.request import AnnotationRequest, Key


class Settler:
    """Settles the requests of one annotator, and learns from them what the provider does.

    Attributes:
        queue: room in the provider's queue of batches.
        length: whether answers keep to the length that is asked for.
    """

    def __init__(
        self,
        provider: Provider,
        billing: BillingPolicy,
        timeouts: Timeouts,
        note: Callable[[str], None],
    ) -> None:
        """`note` keeps an error for those who look at the run."""
        self._provider = provider
        self._billing = billing
        self._timeouts = timeouts
        self._note = note
        self._watch = ThoughtWatch()
        self._failures = Counter[Key]()  # of each question, by this command
        self._learnt = False  # from earlier rounds
        self.queue = BatchQueue(provider.limits.rows)
        # Answers that cost nothing may be of any length.
        self.length = AnswerLength(billing.longest if billing.cost(0, 1) else None)

    def read(
        self, shard: Shard, replies: Sequence[RawResponse], alone: bool
    ) -> tuple[list[Settlement], str | None]:
        """Return the settlement of each request of an ended shard, and the reason why the run must
        pause, if it must.
        """
        by_id = {reply.custom_id: reply for reply in replies}
        settlements = []
        paused = None
        queued = False
        for attempt in shard.attempts:
            key = attempt.request.key
            reply = by_id.get(attempt.custom_id) or RawResponse(
                attempt.custom_id,
                code="no_reply" if by_id else "no_replies",
                message="no reply came",
            )
            action = judge_reply(reply, self._failures[key])
            said = f"{reply.code}: {reply.message}"[:500]
            if action == "answered":
                settlements.append(self._receive(attempt.custom_id, attempt.request, reply))
            elif action == "refused":
                settlements.append(Settlement(attempt.custom_id, "refused", 0, reason=said))
            else:
                settlements.append(Settlement(attempt.custom_id, "unanswered", 0, reason=said))
                name = self._provider.name
                self._note(said)
                if action == "queue":  # no attempt: nothing was tried
                    queued = True
                    continue
                self._failures[key] += 1
                if action == "quota":
                    paused = f"{name} says that its quota or credit is spent ({said})"
                elif action == "stuck":
                    paused = (
                        f"{name} has left requests without an answer {ATTEMPTS} times ({said}); "
                        f"nothing was given up, and the same command asks again"
                    )
        if not queued:
            self.queue.take()
        else:
            self.queue.turn_away(alone)
            if alone and self.queue.waited > self._timeouts.batch:
                hours = self.queue.waited / 3600
                paused = (
                    f"{self._provider.name} has had no room in its queue for {hours:.1f} h "
                    f"({said}); the same command asks again"
                )
        return settlements, paused or self._watch.find_reason(self._provider.name)

    def _receive(
        self, custom_id: str, request: AnnotationRequest, reply: RawResponse
    ) -> Settlement:
        """Return the settlement of a response; one that cannot be parsed counts as paid."""
        body = reply.body or {}
        try:
            answer = self._provider.read(body)
        except ValueError as error:
            # The request was probably billed: keep the raw body, and count the worst case as paid.
            return Settlement(
                custom_id,
                "answered",
                self.bound(request),
                body,
                f"malformed answer: {error}",
            )
        prompt, output = answer.prompt_tokens, answer.output_tokens
        limit = request.output_limit
        self.length.watch(output, limit)
        # Who does not say what it bills may bill the worst case; the label is good all the same.
        if prompt is None or output is None:
            paid = self.bound(request)
        else:
            paid = self._billing.cost(prompt, output, answer.cached_tokens, answer.written_tokens)
        # Not every server says that it has cut an answer; one that ignores limits cuts none.
        reached = limit is not None and (output or 0) >= limit and not self.length.ignored
        cut = limit is not None and (answer.finish == "length" or reached)
        if self._billing.bounds is not None and prompt is not None and output is not None:
            self._billing.bounds.learn(request, prompt, output, cut)
        if cut:
            reason = f"it was cut at {limit} tokens, to stay within the budget"
            return Settlement(custom_id, "unanswered", paid, body, reason, prompt, output)
        self._watch.note(answer)
        return Settlement(custom_id, "answered", paid, body, None, prompt, output)

    def settle_ambiguous(self, attempt: RequestAttempt) -> Settlement:
        """Return the settlement of a request whose outcome is unknown: send it again, or give it up
        as paid.
        """
        worst = self.bound(attempt.request)
        reason = "its answer was lost on the way and cannot be looked up"
        key = attempt.request.key
        if worst == 0 or (self._billing.resend and self._failures[key] + 1 < ATTEMPTS):
            self._failures[key] += 1
            return Settlement(attempt.custom_id, "unanswered", worst, reason=reason)
        reason += "; its worst case counts as paid (annotator.in_doubt)"
        return Settlement(attempt.custom_id, "lost", worst, reason=reason)

    def bound(self, request: AnnotationRequest) -> int:
        """Return the most that a request can cost, with answers as long as the longest so far."""
        worst = self._billing.worst(request)
        excess = self.length.excess
        return worst + self._billing.cost(0, excess) if excess else worst

    def learn(
        self,
        requests: Mapping[Key, AnnotationRequest],
        latest: Mapping[Key, RequestRecord],
        read_lengths: Callable[[bool], Sequence[int]],
    ) -> None:
        """Learn the costs of answers of earlier rounds, whose tokens `read_lengths` returns (of
        verdicts, or of labels), and of those that an earlier process has settled.
        """
        bounds = self._billing.bounds
        if bounds is None or not requests:
            return
        if not self._learnt:
            judged = next(iter(requests))[0].startswith(JUDGED)
            bounds.learn_lengths(read_lengths(judged))
            self._learnt = True
        for key, row in latest.items():
            if row.prompt_tokens is None or row.output_tokens is None or key not in requests:
                continue
            if row.prompt_hash == requests[key].prompt.hash:
                request = replace(requests[key], output_limit=row.output_limit)
                bounds.learn(request, row.prompt_tokens, row.output_tokens, row.cut)
