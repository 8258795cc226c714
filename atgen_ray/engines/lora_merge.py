"""Merge of a LoRA adapter into the weights of a base model, one tensor at a time (imported only
inside vLLM).

The sums are float32 and stay so: in 16 bits most of a small update would be rounded away.
"""

import dataclasses
from collections.abc import Generator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

PREFIX = "base_model.model."


class AdapterLoader(DefaultModelLoader):
    """Reads a checkpoint as vLLM does and adds scale * B @ A to every weight that the adapter
    changes.

    Raises:
        ValueError: the engine computes in another format than float32, or lacks a weight that the
            adapter changes.
    """

    def __init__(self, load_config: LoadConfig) -> None:
        extra = dict(load_config.model_loader_extra_config or {})
        self._updates = read_updates(Path(extra.pop("adapter")))
        super().__init__(
            dataclasses.replace(
                load_config, load_format="safetensors", model_loader_extra_config=extra
            )
        )

    def get_all_weights(
        self, model_config: ModelConfig, model: nn.Module
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        if model_config.dtype != torch.float32:
            raise ValueError(
                f"an adapter is added to weights in float32 only, and this engine's are "
                f"{model_config.dtype}"
            )
        missing = set(self._updates)
        for name, tensor in super().get_all_weights(model_config, model):
            if name in self._updates:
                missing.discard(name)
                tensor = self._updates[name].apply(tensor)
            yield name, tensor
        if missing:
            raise ValueError(
                f"the adapter has weights that the base model lacks: "
                f"{', '.join(sorted(missing)[:3])}"
            )


@dataclasses.dataclass(frozen=True)
class Update:
    """Update of one weight of shape (out, in) by an adapter."""

    down: torch.Tensor  # (r, in)
    up: torch.Tensor  # (out, r)
    scale: float
    magnitude: torch.Tensor | None  # (out,), of DoRA (Liu et al., arXiv 2402.09353)

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight plus scale * up @ down, in float32; under DoRA its rows are then scaled
        to their learnt lengths.
        """
        updated = weight.float() + self.scale * (self.up.float() @ self.down.float())
        if self.magnitude is not None:
            updated *= (self.magnitude.float() / updated.norm(dim=1))[:, None]
        return updated


def read_updates(adapter: Path) -> dict[str, Update]:
    """Return the update of each base weight in a peft folder."""
    from peft import LoraConfig

    config = LoraConfig.from_pretrained(str(adapter))
    if config.bias != "none":
        raise ValueError(
            "only LoRA without biases can be added to weights; set engine.adapters=name"
        )
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    tensors = load_file(adapter / "adapter_model.safetensors")
    updates = {}
    for name, down in tensors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            magnitude = tensors.get(name.replace("lora_A.weight", "lora_magnitude_vector"))
            up = tensors[name.replace("lora_A", "lora_B")]  # every A has a B
            updates[f"{module}.weight"] = Update(down, up, scale, magnitude)
    return updates
