"""The model of a transformers replica with the adapters that lie beside it. Used by one thread alone."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from atgen_ray.config import ServiceConfig
from atgen_ray.engines.decoder import TokenRequest, TokenStep, decode_batch
from atgen_ray.serving.adapters import Adapter
from atgen_ray.serving.faults import Fault


class AdapterShelf:
    """Loads adapters by name and gives them up by age; a name stands for one content only."""

    def __init__(self, service: ServiceConfig) -> None:
        self._service = service
        self._model: Any = None
        self._loaded: OrderedDict[str, str] = OrderedDict()  # name to digest, the longest unused first
        self._needed: list[str] = []  # names that a batch under way uses
        self.failure: Exception | None = None  # why there is no model

    def load_model(self) -> None:
        """The base model, with this thread's share of the machine."""
        try:
            import torch

            from atgen_ray.checkpoints import TUNED_DTYPE, load_model
            from atgen_ray.hardware import count_threads

            torch.set_num_threads(count_threads(1, self._service.engine.threads_per_worker))
            device = "cuda" if torch.cuda.is_available() else "cpu"
            # One copy of the weights serves the base model and what was tuned.
            self._model = load_model(self._service.taught, TUNED_DTYPE).to(device)
        except Exception as error:  # told by check_health, which has Serve start another replica
            self.failure = error

    def load(self, adapter: Adapter) -> None:
        """Puts the adapter beside the model, unless it is there."""
        if self._loaded.get(adapter.name) == adapter.digest:
            self._loaded.move_to_end(adapter.name)
            return
        if adapter.name in self._loaded:
            self._drop(adapter.name)  # the run was made anew under its old name
        from peft import PeftModel

        if self._loaded:
            self._model.load_adapter(str(adapter.path), adapter_name=adapter.name)
        else:
            self._model = PeftModel.from_pretrained(self._model, str(adapter.path), adapter_name=adapter.name)
        self._model.eval()
        self._loaded[adapter.name] = adapter.digest
        unused = [name for name in self._loaded if name not in self._needed and name != adapter.name]
        for name in unused[: max(0, len(self._loaded) - self._service.replica.adapters)]:
            self._drop(name)

    def decode(
        self,
        requests: Sequence[TokenRequest],
        stop_ids: Sequence[int],
        alive: Callable[[int], bool],
        joining: Callable[[], Sequence[TokenRequest]] = tuple,
    ) -> Iterator[dict[int, TokenStep]]:
        """`decode_batch` with the adapters kept until its end; those who join may need no further one."""
        if self._model is None:
            raise Fault(503, f"the model could not be loaded: {self.failure}")
        names = sorted({request.adapter for request in requests if request.adapter})
        if missing := [name for name in names if name not in self._loaded]:
            raise Fault(503, f"adapter '{missing[0]}' was given up while this request waited: ask again")
        self._needed += names
        try:
            yield from decode_batch(self._model, requests, stop_ids, alive, joining)
        finally:
            for name in names:
                self._needed.remove(name)

    def _drop(self, name: str) -> None:
        if len(self._loaded) > 1:
            self._model.delete_adapter(name)
        else:
            self._model = self._model.unload()
        del self._loaded[name]
