"""Encoder replica that is the untuned target model itself: hidden states of one of its layers.

Sentence encoders group prompts by what they are about; the middle layers of a language model, at
the position where it is about to answer, group them by what is asked. The pass ends with that
layer, and nothing is generated.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atgen_ray.config import EmbeddingConfig, ModelConfig, PromptConfig
from atgen_ray.config.embedding import LAST_LAYER
from atgen_ray.core.errors import UserError
from atgen_ray.models.loading import load_for_inference
from atgen_ray.models.prompts import OverlongPromptError
from atgen_ray.ray_runtime.hardware import count_threads

if TYPE_CHECKING:
    from torch import Tensor


class _LayerReachedError(Exception):
    """The layer has given its states: the rest of the pass is not needed."""


class StateEncoder:
    """Embeds batches of text as L2-normalised hidden states of the base model.

    The states are those that a layer hands to the next one, before any final normalisation. A
    prompt that is refused as overlong has none.
    """

    def __init__(
        self,
        config: EmbeddingConfig,
        model: ModelConfig,
        prompt: PromptConfig,
        threads: int | None = None,
    ) -> None:
        """`threads` are those of torch; by default the share of one of `config.workers` in the
        cores of this node.

        Raises:
            UserError: the model cannot be loaded, or has no such layer.
        """
        loaded = load_for_inference(model, prompt, None, count_threads(config.workers, threads))
        self._config = config
        self._prompts = loaded.prompts
        self._device = loaded.device
        self._backbone = loaded.model.base_model  # without the output layer: no logits are needed
        layers = _find_layers(loaded.model, model)
        number = choose_layer(config.layer, len(layers), model.id)
        _free_layers(layers, number)
        layers[number - 1].register_forward_hook(self._stop)
        self._states: Tensor | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        import torch

        encoded = [self._encode(text) for text in batch["text"].to_pylist()]
        rows: list[Any] = [None] * len(encoded)
        usable = [at for at, tokens in enumerate(encoded) if tokens]
        size = self._config.batch_size
        for start in range(0, len(usable), size):
            part = usable[start : start + size]
            tokens = [torch.tensor(encoded[at]) for at in part]
            for at, vector in zip(part, self._embed(tokens), strict=True):
                if bool(torch.isfinite(vector).all()):
                    rows[at] = vector.numpy()
        vectors = pa.array(rows, pa.list_(pa.float32()))
        return pa.table({"content": batch["content"], "embedding": vectors})

    def _encode(self, text: str) -> list[int]:
        """Return the tokens of a prompt; none for one that is refused."""
        if self._config.render == "plain":
            tokenizer = self._prompts.tokenizer
            tokens: list[int] = tokenizer.encode(text)
            return tokens[: self._prompts.max_prompt_tokens]
        try:
            return self._prompts.encode(text)
        except OverlongPromptError:
            return []

    def _embed(self, sequences: "list[Tensor]") -> "Tensor":
        """Return the vectors of token sequences, float32 (n, d) on the CPU."""
        import torch

        # Pad on the right, where causal attention never sees it.
        padded = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        self._states = None
        with torch.inference_mode(), suppress(_LayerReachedError):
            self._backbone(input_ids=padded.to(self._device), use_cache=False)
        if self._states is None:
            raise RuntimeError("the layer was not part of the forward pass")
        states = self._states.float().cpu()
        vectors = [
            self._pool(row[: len(each)]) for row, each in zip(states, sequences, strict=True)
        ]
        return torch.nn.functional.normalize(torch.stack(vectors), dim=1)

    def _pool(self, states: "Tensor") -> "Tensor":
        """Return one vector (d,) for the states (T, d) of a prompt."""
        import torch

        if self._config.position == "last":
            return states[-1]
        if self._config.position == "mean":
            return states.mean(0)
        weights = torch.arange(1, len(states) + 1, dtype=states.dtype)
        return (weights / weights.sum()) @ states

    def _stop(self, _: Any, __: Any, output: Any) -> None:
        """Keep what the layer gave, and end the pass."""
        self._states = output[0] if isinstance(output, tuple) else output
        raise _LayerReachedError


def choose_layer(layer: float, depth: int, model: str) -> int:
    """Return the number, from 1, of the layer that `embedding.layer` names of a model with `depth`.

    Raises:
        UserError: the model has fewer layers.
    """
    if layer == LAST_LAYER:
        return depth
    if layer < 1:
        return max(1, round(layer * depth))
    if layer > depth:
        raise UserError(
            f"embedding.layer is {layer:g}, but '{model}' has {depth} layers, expected at most "
            f"{depth}, or a share below 1"
        )
    return int(layer)


def _find_layers(loaded: Any, model: ModelConfig) -> Any:
    """Return the list of the model's decoder layers."""
    import torch

    depth = loaded.config.get_text_config().num_hidden_layers
    for module in loaded.base_model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return module
    raise UserError(
        f"model.id is '{model.id}', whose layers cannot be told apart, expected "
        f"embedding.source=encoder for it"
    )


def _free_layers(layers: Any, number: int) -> None:
    """Free the memory of the layers after `number`, which are never reached."""
    import torch

    for after in range(number, len(layers)):
        layers[after] = torch.nn.Identity()
