"""The model of a run as it stands after some round: the untuned one with that round's adapter."""

from collections.abc import Callable

import pyarrow as pa

from atgen_ray.config import RunConfig
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.records import GenerationRequest, Progress
from atgen_ray.engines.adapter_check import check_adapter
from atgen_ray.engines.base import Engine
from atgen_ray.engines.generation import generate_features
from atgen_ray.engines.registry import build_engine
from atgen_ray.run.shared_cache import open_output_cache, share_outputs
from atgen_ray.run.state import RunState
from atgen_ray.store.layout import round_folder
from atgen_ray.store.run_folder import RunFolder


class RoundModel:
    """Has the engine of a run answer examples; what other runs have had the untuned model answer is
    taken from them.
    """

    def __init__(
        self, config: RunConfig, state: RunState, folder: RunFolder, spare: Callable[[float], None]
    ) -> None:
        """`spare` is told the seconds that others' answers took when they were made."""
        self._config = config
        self._state = state
        self._folder = folder
        self._add_reused_seconds = spare
        self.engine = build_engine(config.model, config.prompt, config.engine, folder)

    def answer(
        self,
        round: int,
        adapter_round: int,
        examples: pa.Table,
        name: str,
        progress: Progress,
        samples: int = 0,
        untuned: Engine | None = None,
    ) -> pa.Table:
        """Outputs for `examples` of the model as it was after `adapter_round`, or of the engine
        `untuned`.

        Args:
            round: the round under way, which keeps what is done so far under `name`.

        Returns:
            FEATURES_SCHEMA, sorted by id.
        """
        model = self._config.model
        engine = self._config.engine
        adapter = None if untuned else self._state.adapter(adapter_round)
        seed = mix_seed(self._config.seed, "generation", round)
        request = GenerationRequest(model.max_new_tokens, samples=samples, seed=seed)

        def generate(rows: pa.Table) -> pa.Table:
            generator = untuned or self.engine
            parts = f"{round_folder(round)}/{name}.parts"
            return generate_features(
                generator, rows, request, adapter, self._folder, parts, engine.batch_size, progress
            )

        if self._config.cache is not None and adapter is None and not samples and untuned is None:
            cache = self._config.cache
            backend = self.engine.name
            shelf = open_output_cache(
                cache, model, self._config.prompt, backend, engine.options, request
            )
            features, reused = share_outputs(shelf, examples, generate)
            self._add_reused_seconds(reused)
        else:
            features = generate(examples)
        if adapter is not None and self.engine.name != "transformers" and engine.check_rows:
            check_adapter(
                examples, features, model, self._config.prompt, engine, adapter, engine.check_rows
            )
        return features
