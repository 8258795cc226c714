"""Model of a run after some round: the untuned model with that round's adapter."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atgen_ray.config import RunConfig
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.records import GenerationRequest, Progress
from atgen_ray.core.stored import Stored
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
        checked = self.engine.name == "transformers" or not engine.check_rows or section
        if adapter is not None and not checked:
            self._check(adapter, examples, features)
        return features

    def _check(self, adapter: Stored, examples: pa.Table, features: pa.Table) -> None:
        """Check outputs with `adapter`, once for each adapter that the engine is given.

        An engine that is kept has the same weights in the next pass with this adapter. The check
        loads the base model a second time, which takes longer than many a pass.
        """
        engine = self._config.engine
        if engine.keep and adapter in self._checked:
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
