"""What vLLM is given for an adapter on a CPU: the weights that peft itself merges."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from atgen_ray.config import ModelConfig
from atgen_ray.engines.lora_merge import read_updates
from atgen_ray.models.loading import load_model


@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
def test_updates_are_those_that_peft_merges(method: str, tiny_model: str, tmp_path: Path) -> None:
    model = ModelConfig(id=tiny_model, dtype="float32")
    before: dict[str, Any] = {
        name: weight.clone() for name, weight in load_model(model).state_dict().items()
    }
    variant = {"use_rslora": method == "rslora", "use_dora": method == "dora"}
    tuned = get_peft_model(
        load_model(model), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **variant)
    )
    torch.manual_seed(0)
    for name, weight in tuned.named_parameters():
        if weight.requires_grad:
            weight.data += (0.1 if "magnitude" in name else 1.0) * torch.rand_like(weight)
    tuned.save_pretrained(tmp_path)
    merged = tuned.merge_and_unload().state_dict()
    updates = read_updates(tmp_path)
    assert len(updates) == 14  # seven linear layers in each of two blocks
    for name, weight in before.items():
        found = updates[name].apply(weight) if name in updates else weight
        assert torch.allclose(found, merged[name], atol=1e-5), name
        assert name not in updates or not torch.allclose(found, weight, atol=1e-2)
