"""Steps that choose the query batch of a round."""

from dataclasses import asdict
from typing import Any

import pyarrow as pa

from atgen_ray.core.records import FEATURES_SCHEMA, SAMPLES, Progress
from atgen_ray.engines.generation import SECTION_ROWS
from atgen_ray.engines.hidden_states import STATE_SCHEMA, append_states
from atgen_ray.runs.run_context import RunContext
from atgen_ray.runs.stored_selection import read_examples
from atgen_ray.selection import read_bound
from atgen_ray.selection.strategy import MODEL
from atgen_ray.store.layout import round_folder
from atgen_ray.store.run_folder import RunFolder


class PickSteps:
    """Features of the candidates, and the picks."""

    def __init__(self, run: RunContext) -> None:
        self._run = run

    def generate_features(self, round: int) -> None:
        """Run the current model over the candidates if the strategy uses its outputs or hidden
        states.
        """
        run = self._run
        needs = run.state.needs(round)
        path = f"{round_folder(round)}/features.parquet"
        schema = FEATURES_SCHEMA
        if "states" in needs:
            schema = schema.append(STATE_SCHEMA.field("state"))

        def make(progress: Progress, out: RunFolder) -> None:
            ids = run.state.shortlist(round).sort()
            outputs = 1 + (SAMPLES if "samples" in needs else 0)
            size = SECTION_ROWS // outputs
            with out.table_writer(path, schema) as add:
                for section, first in enumerate(range(0, max(1, len(ids)), size)):
                    here = ids.slice(first, size)
                    after = len(ids) - first - len(here)
                    counted = _count_others(progress, first * outputs, after * outputs)
                    add(self._generate(round, section, here, outputs - 1, counted))

        if needs & MODEL:
            parts = f"{round_folder(round)}/features.parts"
            run.committer.commit(round, "generation", path, make, parts)

    def _generate(
        self, round: int, section: int, ids: pa.StringArray, samples: int, progress: Progress
    ) -> pa.Table:
        """Return the features of the candidates `ids`, sorted: a section of the generation pass."""
        run = self._run
        examples = read_examples(run.folder, ids, "id", "text")
        features = run.model.answer(
            round, round - 1, examples, "features", progress, samples, section=section
        )
        if "states" in run.state.needs(round):
            # They need a pass of their own, whatever the engine.
            config = run.config
            adapter = run.state.adapter(round - 1)
            features = append_states(
                features, examples, config.model, config.prompt, config.engine, adapter, progress
            )
        run.committer.record_failures(round, "generation", features)
        return features

    def select(self, round: int) -> None:
        """Select the query batch."""
        run = self._run
        strategy, parameters, _ = run.state.strategy(round)
        path = f"{round_folder(round)}/selection.parquet"

        def make(progress: Progress, out: RunFolder) -> dict[str, Any]:
            features = f"{round_folder(round)}/features.parquet"
            if run.config.selection.is_chosen(round):
                picks = run.state.choose_given()
                out.write_table(path, picks)
                progress(picks.num_rows, picks.num_rows)
                return {}
            ids = run.state.shortlist(round)
            has_features = run.state.has_output(round, "generation", features)
            picks = run.state.select(
                strategy,
                parameters,
                ids,
                run.state.affordable(round),
                round,
                features if has_features else None,
                progress,
                run.remote,
            )
            out.write_table(path, picks)
            progress(picks.num_rows, picks.num_rows)
            bound = read_bound(out.read_table(path, ["id"]))
            return {} if bound is None else {"bound": asdict(bound)}

        run.committer.commit(round, "selection", path, make)


def _count_others(progress: Progress, before: int, after: int) -> Progress:
    """Return `progress` for a part of a step, which has more to do before and after that part."""
    return lambda done, total: progress(before + done, before + total + after)
