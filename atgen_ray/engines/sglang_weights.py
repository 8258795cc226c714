"""Which weights SGLang's server answers with: the base model, an adapter, or a whole model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from atgen_ray.core.checkpoints import is_adapter
from atgen_ray.core.stored import Stored
from atgen_ray.models.loading import digest_adapter, digest_checkpoint

# Rank that a server has room for. An adapter of a larger one has the server started again.
LORA_RANK = 64
DIGITS = 16  # of a digest in the name of weights
# Settings of an adapter by which it is more than alpha / rank * B A in every module.
SPECIAL = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")


@dataclass(frozen=True)
class Weights:
    """What requests are answered with.

    Attributes:
        how: "name" is an adapter beside the base model; "merged" is one that is added to the
            weights; "whole" is a whole model in the base model's place.
        version: a digest of the adapter or the model; empty for the base model.
        stored: its folder.
    """

    how: Literal["base", "name", "merged", "whole"] = "base"
    version: str = ""
    stored: Stored | None = None

    @property
    def adapter(self) -> str | None:
        """Return the name by which the server knows the adapter; None without one."""
        return self.version if self.how == "name" else None

    @property
    def folder(self) -> Path:
        """Return the folder of the adapter or model on this node, fetched there if need be."""
        if self.stored is None:
            raise ValueError("the base model has no folder of its own")
        return self.stored.local()

    @property
    def loaded(self) -> str:
        """Return the `weight_version` of answers: what is in the place of the base model."""
        return self.version if self.how in ("merged", "whole") else "base"


BASE = Weights()


def choose_weights(stored: Stored | None, adapters: str) -> Weights:
    """Return how a server takes the adapter in the folder `stored`.

    It takes plain LoRA by name, unless `adapters` is "merged". SGLang scales every update by alpha
    over rank and reads nothing else of an adapter's settings, so other kinds are merged.
    """
    if stored is None:
        return BASE
    adapter = stored.local()
    if not is_adapter(adapter):
        return Weights("whole", digest_checkpoint(adapter)[:DIGITS], stored)
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    plain = not any(settings.get(key) for key in SPECIAL) and settings.get("bias", "none") == "none"
    digest = digest_adapter(adapter)[:DIGITS]
    return Weights("name" if plain and adapters != "merged" else "merged", digest, stored)


def read_rank(weights: Weights) -> int:
    """Return the rank of an adapter beside the base model; 0 without one."""
    if weights.how != "name":
        return 0
    settings = json.loads((weights.folder / "adapter_config.json").read_text(encoding="utf-8"))
    return int(settings["r"])
