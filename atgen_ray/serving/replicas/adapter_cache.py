"""Cache of LoRA adapters in front of the one model of a transformers replica.

Invariants:
- One thread uses the cache; nothing here locks.
- A key stands for one content of an adapter: its name and the digest of its weights.
- An adapter stays until the last row that needs it has ended.
- Adapters may be loaded and dropped between two forward passes of a batch, since no row sees the
  adapter of another.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from atgen_ray.config import ServiceConfig
from atgen_ray.engines.base import TokenRequest, TokenStep
from atgen_ray.engines.decoding import decode_batch
from atgen_ray.models.loading import TUNED_DTYPE, attach_adapter, check_adapter, load_model
from atgen_ray.ray_runtime.hardware import count_threads
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.replicas.adapter_directory import Adapter


class AdapterCache:
    """Least-recently-used cache of adapters beside one model."""

    def __init__(self, service: ServiceConfig) -> None:
        self._service = service
        self._model: Any = None
        # Keys of adapters, the longest unused first.
        self._loaded: OrderedDict[str, None] = OrderedDict()
        # For each batch the adapter of every row; None once a row has ended.
        self._rows: list[list[str | None]] = []
        self.failure: Exception | None = None  # why there is no model

    def load_model(self) -> None:
        """Load the base model, with a bounded number of compute threads."""
        try:
            import torch

            torch.set_num_threads(count_threads(1, self._service.engine.threads_per_worker))
            device = "cuda" if torch.cuda.is_available() else "cpu"
            # One copy of the weights serves the base model and every adapter.
            self._model = load_model(self._service.target_model, TUNED_DTYPE).to(device)
        except Exception as error:  # `check_health` raises it, and Serve starts another replica
            self.failure = error

    def load(self, adapter: Adapter | None) -> None:
        """Load the adapter unless it is loaded. It stays at least until the next call of `decode`.

        Raises:
            ApiError: 503, the model could not be loaded.
        """
        if self._model is None:
            raise ApiError(503, f"the model could not be loaded: {self.failure}")
        if adapter is None:
            return
        if adapter.key not in self._loaded:
            self._attach(adapter)
        self._loaded[adapter.key] = None
        self._loaded.move_to_end(adapter.key)

    def decode(
        self,
        requests: Sequence[TokenRequest],
        stop_ids: Sequence[int],
        alive: Callable[[int], bool],
        joining: Callable[[], Sequence[TokenRequest]] = tuple,
    ) -> Iterator[dict[int, TokenStep]]:
        """Yield the steps of `decode_batch`. The adapters of all rows must be loaded; each is kept
        until its last row has ended.
        """
        adapters = [request.adapter for request in requests]
        self._rows.append(adapters)
        self._drop_unused()

        def wanted(row: int) -> bool:
            goes_on = alive(row)
            if not goes_on:
                adapters[row] = None  # the decoder drops the row now
            return goes_on

        def join() -> Sequence[TokenRequest]:
            joined = joining()
            adapters.extend(request.adapter for request in joined)
            self._drop_unused()
            return joined

        try:
            for steps in decode_batch(lambda: self._model, requests, stop_ids, wanted, join):
                yield steps
                for row, step in steps.items():
                    adapters[row] = None if step.finish else adapters[row]
        finally:
            self._rows = [rows for rows in self._rows if rows is not adapters]

    def _attach(self, adapter: Adapter) -> None:
        if self._loaded:
            check_adapter(adapter.path)
            self._model.load_adapter(str(adapter.path), adapter_name=adapter.key)
        else:
            self._model = attach_adapter(self._model, adapter.path, adapter_name=adapter.key)
        self._model.eval()

    def _drop_unused(self) -> None:
        """Drop the adapters unused for longest, down to as many as a replica keeps."""
        used = {key for rows in self._rows for key in rows}
        unused = [key for key in self._loaded if key not in used]
        for key in unused[: max(0, len(self._loaded) - self._service.replica.adapters)]:
            self._drop(key)

    def _drop(self, key: str) -> None:
        if len(self._loaded) > 1:
            self._model.delete_adapter(key)
        else:
            self._model = self._model.unload()
        del self._loaded[key]
