"""Steps that fine-tune."""

import shutil
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.core.checkpoints import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from atgen_ray.core.errors import UserError
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.records import TOMBSTONE, Progress
from atgen_ray.models.start_adapter import find_adapter, find_adapter_mistakes
from atgen_ray.runs.run_context import RunContext
from atgen_ray.runs.steps.labels import LabelSteps
from atgen_ray.runs.stored_selection import read_vectors
from atgen_ray.store.label_changes import LABEL_CHANGES, read_last_change
from atgen_ray.store.layout import START, START_ADAPTER, round_folder
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.training import TrainingExample
from atgen_ray.training.reweighting import sample_pool, weigh_examples


class AdapterSteps:
    """The adapter of each round."""

    def __init__(self, run: RunContext, labels: LabelSteps) -> None:
        self._run = run
        self._labels = labels

    def copy_start(self) -> None:
        """Copy model.adapter into the run, whose workers find it there like an adapter of its own.

        Raises:
            UserError: there is no such adapter, or training does not go on from it.
        """
        run = self._run
        named = run.config.model.adapter

        def make(_: Progress, out: RunFolder) -> dict[str, Any]:
            said = f"model.adapter is '{named}'"
            source = find_adapter(str(named), said, run.config, run.journal).local()
            for line in find_adapter_mistakes(source, said, run.config):
                raise UserError(line)
            with out.publish(START_ADAPTER) as output:
                for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
                    shutil.copyfile(source / name, output / name)
            return {"source": named}

        if named is not None:
            run.committer.commit(0, START, START_ADAPTER, make)

    def train(self, round: int) -> None:
        """Fine-tune an adapter on all labels so far, from the base model or, with `warm_start`, the
        last adapter.
        """
        run = self._run
        # Read before the labels: a change in between may count as unknown, never as known.
        changes = read_last_change(run.journal, run.config.name)
        labels = run.state.labels(round)
        dev = run.state.dev(round)
        texts = run.state.texts(label.id for label in labels)
        labeled = [TrainingExample(label.id, texts[label.id], label.text) for label in labels]
        examples = [example for example in labeled if example.id not in dev]
        path = f"{round_folder(round)}/adapter"
        work = f"{round_folder(round)}/training"

        def make(_: Progress, out: RunFolder) -> dict[str, Any]:
            if changes:
                self._labels.write(round)
            training = run.config.training
            order = [training.order] if training.order else []
            seed = mix_seed(run.config.seed, "training", round, *order)
            begins = run.state.start_adapter
            start_from = run.state.adapter(round - 1) if training.warm_start else begins
            logs = None
            if "tensorboard" in training.trackers:
                logs = run.folder.path(f"logs/{round:03d}")
            run.committer.outputs.claim_work(work)
            # The engine gives the GPU up while training needs it.
            with (
                run.model.engine.released(run.config.name),
                out.publish(path) as output,
            ):
                result = run.workers.train_adapter(
                    self._weigh(examples),
                    run.config.model,
                    run.config.prompt,
                    training,
                    seed=seed,
                    output=output,
                    work=run.folder.path(run.committer.outputs.name_work(work)),
                    progress=run.remote,
                    start_from=start_from,
                    dev=[example for example in labeled if example.id in dev],
                    logs=logs,
                    probes=run.model.probes,
                )
            out.write_json(f"{round_folder(round)}/training.json", asdict(result))
            return {LABEL_CHANGES: changes}

        if examples:
            run.committer.commit(round, "training", path, make, work)

    def _weigh(self, examples: list[TrainingExample]) -> list[TrainingExample]:
        """Return the examples with their weights in the loss."""
        run = self._run
        largest = run.config.training.reweight
        if largest is None:
            return examples
        ids = [example.id for example in examples]
        rows = pa.concat_tables(run.state.scan_pool("id", "content"))
        pool = rows["id"].filter(pc.not_equal(rows["content"], TOMBSTONE))
        sampled = sample_pool(pool)
        embeddings = read_vectors(run.folder, pa.array([*ids, *sampled], pa.string()))
        weights = weigh_examples(ids, sampled, embeddings, largest)
        return [replace(example, weight=weights[example.id]) for example in examples]
