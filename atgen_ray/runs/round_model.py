"""Model of a run after some round: the untuned model with that round's adapter."""

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.config import RunConfig
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.records import GenerationRequest, Progress
from atgen_ray.core.stored import Stored
from atgen_ray.engines.adapter_check import Effect
from atgen_ray.engines.adapter_probe import (
    PREFIX,
    Probe,
    compare_probes,
    read_probes,
    tabulate_probes,
)
from atgen_ray.engines.base import Engine
from atgen_ray.runs.shared_cache import open_output_cache, share_outputs
from atgen_ray.runs.state import RunState
from atgen_ray.store.layout import round_folder
from atgen_ray.store.run_folder import RunFolder

if TYPE_CHECKING:
    from atgen_ray.runs.workers import Workers


class RoundModel:
    """Answers examples with the run's engine; greedy outputs of the untuned model come from the
    shared cache where it has them.
    """

    def __init__(
        self,
        config: RunConfig,
        state: RunState,
        folder: RunFolder,
        on_reuse: Callable[[float], None],
        on_choice: Callable[[dict[str, Any]], None],
        workers: "Workers",
    ) -> None:
        """`on_reuse` receives the seconds that reused outputs took when they were generated,
        `on_choice` what `explain_choice` says before the engine is first used.
        """
        self._config = config
        self._state = state
        self._folder = folder
        self._on_reuse = on_reuse
        self._checked: set[Stored] = set()  # adapters that the engine was seen to compute with
        self._on_choice: Callable[[dict[str, Any]], None] | None = on_choice
        self._workers = workers
        self.engine = workers.build_engine(
            config.model, config.prompt, config.engine, folder, config.training
        )

    def answer(
        self,
        round: int,
        adapter_round: int,
        examples: pa.Table,
        name: str,
        progress: Progress,
        samples: int = 0,
        untuned: Engine | None = None,
        section: int = 0,
        other: Stored | None = None,
    ) -> pa.Table:
        """Return the outputs for `examples` of the model after `adapter_round`, or of the engine
        `untuned`.

        Args:
            round: the round under way; its folder keeps partial results under `name`.
            section: number of the examples among those of a pass that is made in sections.
            other: an adapter of another run, to answer with.

        Returns:
            FEATURES_SCHEMA, sorted by id.
        """
        model = self._config.model
        engine = self._config.engine
        adapter = other or (None if untuned else self._state.adapter(adapter_round))
        seed = mix_seed(self._config.seed, "generation", round)
        request = GenerationRequest(model.max_new_tokens, samples=samples, seed=seed)

        checked = adapter is None or section > 0 or not self.probes or self._is_known(adapter)
        probes = [] if adapter is None or checked else self._read_probes(adapter)
        more = {"apart": tabulate_probes(probes)} if probes else {}

        def generate(rows: pa.Table) -> pa.Table:
            self._explain()
            generator = untuned or self.engine
            parts = f"{round_folder(round)}/{name}.parts/{section:04d}"
            try:
                return self._workers.generate_features(
                    generator,
                    rows,
                    request,
                    adapter,
                    self._folder,
                    parts,
                    engine.batch_size,
                    progress,
                    **more,
                )
            finally:
                if not engine.keep:
                    generator.close()

        # Only greedy outputs of the untuned model are the same in every run that shares the cache.
        alone = adapter is None and not samples and untuned is None
        if self._config.cache is not None and alone and "answer" not in examples.column_names:
            cache = open_output_cache(
                self._config.cache,
                model,
                self._config.prompt,
                self.engine.name,
                engine.options,
                request,
            )
            features, reused = share_outputs(cache, examples, generate)
            self._on_reuse(reused)
        else:
            features = generate(examples)
        if adapter is None or checked:
            return features
        is_probe = pc.starts_with(features["id"], PREFIX)
        answered = features.filter(is_probe)
        features = features.filter(pc.invert(is_probe))
        self._check(adapter, examples, features, compare_probes(probes, answered))
        return features

    @property
    def probes(self) -> int:
        """Return how many answers of a tuned model its training leaves behind; none where the
        engine computes as training does.
        """
        return 0 if self.engine.name == "transformers" else self._config.engine.check_rows

    def _is_known(self, adapter: Stored) -> bool:
        """Return whether the engine still has the weights of `adapter` that were checked before: an
        engine that is kept has them in the next pass with this adapter.
        """
        return self._config.engine.keep and adapter in self._checked

    def _read_probes(self, adapter: Stored) -> list[Probe]:
        """Return what the training of `adapter` left behind."""
        round = int(PurePosixPath(adapter.path).parent.name)
        path = f"{round_folder(round)}/training.json"
        if not self._folder.exists(path):
            return []
        return read_probes(self._folder.read_json(path))

    def _check(
        self, adapter: Stored, examples: pa.Table, features: pa.Table, probed: Effect | None
    ) -> None:
        """Check outputs with `adapter`. Where its probes have shown nothing, or something wrong,
        the base model is loaded a second time and decides.
        """
        engine = self._config.engine
        if probed is not None and probed.is_within(engine.adapter_tolerance):
            self._checked.add(adapter)
            return
        self._workers.check_adapter(
            examples,
            features,
            self._config.model,
            self._config.prompt,
            engine,
            adapter,
            engine.check_rows,
        )
        self._checked.add(adapter)

    def _explain(self) -> None:
        """Say once which engine works, where and why; replicas of the service are not ours."""
        if self._on_choice is not None and self._config.model.host == "batch":
            config = self._config
            explain = self._workers.explain_choice
            self._on_choice(explain(config.engine, config.model, self.engine.name))
        self._on_choice = None
