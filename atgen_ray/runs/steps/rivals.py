"""Steps that score rivals of the tuned model: cheap alternatives, on the same examples by the same
metrics.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

import pyarrow as pa

from atgen_ray.annotation.asked_models import ask_larger
from atgen_ray.config import Shot
from atgen_ray.config.rivals import (
    FewShotRival,
    LargerRival,
    NearestRival,
    PromptRival,
    Rival,
    ZeroShotRival,
)
from atgen_ray.core.hashing import hash_text
from atgen_ray.core.records import Annotation, Progress
from atgen_ray.embedding import EmbeddingSpace
from atgen_ray.embedding.pool import load_whitening, read_vectors
from atgen_ray.evaluation import METRICS
from atgen_ray.evaluation.audit import score_audit
from atgen_ray.models.few_shot import instruct
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.reporting.headline import choose_metric
from atgen_ray.runs.audit import read_sample
from atgen_ray.runs.metrics_table import collect_rows
from atgen_ray.runs.rivals.files import STEP, name_rival
from atgen_ray.runs.rivals.instructions import (
    ask_instructions,
    choose_search_metric,
    list_instructions,
    rank_instructions,
    split_labels,
)
from atgen_ray.runs.rivals.nearest import find_nearest, show_nearest
from atgen_ray.runs.run_context import RunContext
from atgen_ray.runs.steps.labels import LabelSteps
from atgen_ray.runs.steps.scores import Answers, ScoreSteps
from atgen_ray.store.layout import RIVAL_FACTS, RIVAL_ROWS, rivals_folder
from atgen_ray.store.run_folder import RunFolder

NO_LIKELIHOOD = "it gives no log-probabilities of given answers"


@dataclass(frozen=True)
class Scored:
    """What a rival is scored on: one split, its references by id, and the labels to learn from.

    `nearest` returns the labels nearest to each example, by id, the nearest first: as many as any
    rival asks for. They are looked for once, when the first rival asks.
    """

    split: str
    references: Mapping[str, list[str]]
    labels: Sequence[Annotation]
    nearest: Callable[[], Mapping[str, list[Shot]]]


@dataclass(frozen=True)
class Result:
    """What a rival answered; `more` goes to its facts."""

    predictions: Mapping[str, str]
    nats: Mapping[str, Sequence[float]] | None  # None where it has no log-probabilities
    more: dict[str, Any]


class RivalSteps:
    """The rivals of a run; what each is given is said in `atgen_ray/runs/rivals`."""

    def __init__(self, run: RunContext, labels: LabelSteps, scores: ScoreSteps) -> None:
        self._run = run
        self._labels = labels
        self._scores = scores

    def evaluate(self, round: int) -> None:
        """Score all rivals of the configuration beside the model after `round`, or after the one
        before, where the money ended in this one.

        Raises:
            RunPaused: the budget does not pay for the answers of a larger model.
        """
        rivals = self._run.config.evaluation.rivals
        if round and not self._run.committer.has(round, "evaluation"):
            round -= 1
        if not rivals or not round:
            return
        scored = self._choose_split(round)
        if not scored.references:
            self._run.committer.warn("evaluation.rivals: nothing is evaluated, so no rival is")
            return
        for place, rival in enumerate(rivals):
            # Round 0 has scored the model before tuning on all splits but that of labels.
            if scored.split == "dev" or not isinstance(rival, ZeroShotRival):
                self._evaluate(round, place, rival, scored)
        run = self._run
        run.lease.renew()
        rows = collect_rows(run.config.name, run.journal, run.folder)
        run.folder.write_json("metrics.json", rows)
        self._scores.write_rivalry(rows)

    def _choose_split(self, round: int) -> Scored:
        """Return the test set; without one the audit, or else the dev split."""
        state = self._run.state
        dev = state.dev(round)
        known = state.labels(round)
        learnt = [label for label in known if label.id not in dev]
        measured = state.audit_labels()
        held = [label for label in known if label.id in dev]
        split = "test"
        references: Mapping[str, list[str]] = state.test_references
        if not references:
            split, labels = ("audit", measured) if measured else ("dev", held)
            references = {label.id: [label.text] for label in labels}
        rivals = self._run.config.evaluation.rivals
        most = max((rival.k for rival in rivals if isinstance(rival, FewShotRival)), default=1)
        nearest = cache(partial(self._find_shots, references, learnt, most))
        return Scored(split, references, learnt, nearest)

    def _evaluate(self, round: int, place: int, rival: Rival, scored: Scored) -> None:
        folder = f"{rivals_folder(round)}/{rival.key}"

        def make(progress: Progress, out: RunFolder) -> None:
            metrics = self._scores.choose_metrics(scored.references)
            result = self._answer(round, place, rival, scored, metrics, progress)
            absent = {}
            if result.nats is None:
                absent = {name: NO_LIKELIHOOD for name in metrics if METRICS[name].likelihood}
            rows: list[dict[str, Any]] = []
            found: dict[str, Any] = {}
            if usable := [name for name in metrics if name not in absent]:
                splits = dict.fromkeys(scored.references, scored.split)
                rows, by_split = self._scores.grade(
                    round,
                    splits,
                    result.predictions,
                    scored.references,
                    usable,
                    progress,
                    result.nats,
                )
                found = self._aggregate(scored.split, rows, by_split)
            out.write_jsonl(f"{folder}/{RIVAL_ROWS}", rows)
            facts = {
                "rival": rival.type,
                "title": name_rival(rival),
                "split": scored.split,
                "labels": len(scored.labels),
                "metrics": found,
                "absent": absent,
                "dollars": 0.0,
                "dollars_per_thousand": 0.0,
            }
            out.write_json(f"{folder}/{RIVAL_FACTS}", facts | result.more)

        self._run.committer.commit(
            round, f"{STEP}{rival.key}", f"{folder}/{RIVAL_FACTS}", make, f"{folder}.parts"
        )

    def _aggregate(
        self, split: str, rows: Sequence[dict[str, Any]], by_split: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the metrics of the split; those of an audit are of the pool."""
        if split != "audit":
            return dict(by_split[split])
        confidence = self._run.config.evaluation.confidence
        return score_audit(read_sample(self._run.folder), rows, confidence)

    def _answer(
        self,
        round: int,
        place: int,
        rival: Rival,
        scored: Scored,
        metrics: Sequence[str],
        progress: Progress,
    ) -> Result:
        texts = self._run.state.texts(sorted(scored.references))
        ask = partial(self._ask, round, rival.key, scored.references, metrics, progress)
        if isinstance(rival, ZeroShotRival):
            return _describe(ask(texts), {})
        if isinstance(rival, NearestRival):
            nearest = scored.nearest().items()
            copied = {id_: shots[0].output if shots else "" for id_, shots in nearest}
            return Result(copied, None, {})
        if isinstance(rival, FewShotRival):
            return self._show_labels(rival, texts, scored, ask)
        if isinstance(rival, PromptRival):
            return self._search(round, rival, texts, scored, metrics, progress)
        return self._ask_larger(place, rival, texts, progress)

    def _ask(
        self,
        round: int,
        key: str,
        references: Mapping[str, list[str]],
        metrics: Sequence[str],
        progress: Progress,
        texts: Mapping[str, str],
        section: int = 0,
    ) -> Answers:
        """Return what the model before tuning answers to `texts`; `section` is the number of the
        first pass.
        """

        def answer(rows: pa.Table, number: int) -> pa.Table:
            name = f"rivals/{key}"
            at = section + number
            return self._run.model.answer(round, 0, rows, name, progress, section=at)

        return self._scores.answer(texts, references, metrics, answer)

    def _find_shots(
        self, ids: Iterable[str], labels: Sequence[Annotation], count: int
    ) -> dict[str, list[Shot]]:
        """Return the `count` labels nearest to each example, by id, the nearest first."""
        run = self._run
        texts = run.state.texts(sorted(ids))
        solved = run.state.texts(label.id for label in labels)
        contents = {hash_text(text): text for text in (*texts.values(), *solved.values())}
        table = run.workers.embed_apart(
            pa.table({"content": [*contents], "text": [*contents.values()]}),
            EmbeddingSpace.of(run.config),
        )
        vectors = read_vectors(table["embedding"])
        whitening = load_whitening(run.folder)
        if whitening is not None:
            vectors = whitening.apply(vectors)
        at = {content: place for place, content in enumerate(table["content"].to_pylist())}
        asked = vectors[[at[hash_text(text)] for text in texts.values()]]
        known = vectors[[at[hash_text(solved[label.id])] for label in labels]]
        return {
            id_: [Shot(input=solved[labels[one].id], output=labels[one].text) for one in row]
            for id_, row in zip(texts, find_nearest(asked, known, count).tolist(), strict=True)
        }

    def _show_labels(
        self,
        rival: FewShotRival,
        texts: Mapping[str, str],
        scored: Scored,
        ask: Callable[..., Answers],
    ) -> Result:
        config = self._run.config
        nearest = {id_: shots[: rival.k] for id_, shots in scored.nearest().items()}
        tokenizer = load_tokenizer(config.model)
        shown = show_nearest(
            tokenizer, config.prompt, config.model.max_prompt_tokens, texts, nearest
        )
        mean = sum(shown.counts.values()) / max(1, len(shown.counts))
        return _describe(ask(shown.texts), {"shown": round(mean, 2)})

    def _search(
        self,
        round: int,
        rival: PromptRival,
        texts: Mapping[str, str],
        scored: Scored,
        metrics: Sequence[str],
        progress: Progress,
    ) -> Result:
        """Write, try and choose an instruction, and answer with it. The test set is seen only by
        the last of these.
        """
        run = self._run
        config = run.config
        answers = {label.id: label.text for label in scored.labels}
        solved = run.state.texts(answers)
        writing, held = split_labels([*answers], rival.held_out, config.seed)
        shots = [Shot(input=solved[id_], output=answers[id_]) for id_ in writing]
        requests = ask_instructions(shots, rival.proposals, rival.shown, config.seed)
        name = f"rivals/{rival.key}"
        proposed = []
        if requests:
            ids = [f"proposal-{number:03d}" for number in range(len(requests))]
            asked = pa.table({"id": ids, "text": requests})
            written = run.model.answer(round, 0, asked, name, progress, section=0)
            proposed = [text or "" for text in written["text"].to_pylist()]
        tried = list_instructions(rival.instructions, proposed)
        metric = choose_search_metric(metrics, choose_metric(metrics, config.model_dump()))
        if metric is None or not held:
            why = "no metric can choose" if held else "there are too few labels to choose by"
            run.committer.warn(f"evaluation.rivals: prompt stays as it is, as {why}")
            ranked = rank_instructions([None], [{}], metric or "exact_match")
        else:
            tests = {
                f"{number:03d}#{id_}": _apply(solved[id_], instruction)
                for number, instruction in enumerate(tried)
                for id_ in held
            }
            told = {id_: [answers[id_.partition("#")[2]]] for id_ in tests}
            found = self._ask(round, rival.key, told, [metric], progress, tests, 1)
            scores = [
                self._score_held(round, number, held, found, answers, metric, progress)
                for number in range(len(tried))
            ]
            ranked = rank_instructions(tried, scores, metric)
        best = ranked[0].instruction
        final = {id_: _apply(text, best) for id_, text in texts.items()}
        more = {
            "instruction": best,
            "held_out": len(held),
            "chosen_by": metric,
            "tried": [asdict(each) for each in ranked],
        }
        found = self._ask(round, rival.key, scored.references, metrics, progress, final, 2)
        return _describe(found, more)

    def _score_held(
        self,
        round: int,
        number: int,
        held: Sequence[str],
        found: Answers,
        answers: Mapping[str, str],
        metric: str,
        progress: Progress,
    ) -> dict[str, float | None]:
        """Return the scores of the instruction of this number on the held-out labels."""
        rows, _ = self._scores.grade(
            round,
            dict.fromkeys(held, "held-out"),
            {id_: found.predictions[f"{number:03d}#{id_}"] for id_ in held},
            {id_: [answers[id_]] for id_ in held},
            [metric],
            progress,
        )
        return {row["id"]: row["scores"][metric] for row in rows}

    def _ask_larger(
        self, place: int, rival: LargerRival, texts: Mapping[str, str], progress: Progress
    ) -> Result:
        # In round 0 whichever round it is: what the request log has is not paid for again.
        context = self._labels.open_context(0, progress)
        key = f"evaluation.rivals.{place}.model"
        larger = ask_larger(rival, context, key, texts)
        more = {
            "dollars": larger.dollars,
            "dollars_per_thousand": 1000 * larger.dollars / max(1, len(set(texts.values()))),
            "unusable": larger.unusable,
        }
        return Result(larger.predictions, None, more)


def _describe(answers: Answers, more: dict[str, Any]) -> Result:
    failed = answers.outputs["error"].drop_null()
    return Result(answers.predictions, answers.nats, more | {"unusable": len(failed)})


def _apply(text: str, instruction: str | None) -> str:
    return text if instruction is None else instruct(text, instruction)
