"""What each method learns and saves, and that padding, packing and shares change nothing. Without
Ray.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    MistralConfig,
    Qwen3Config,
)

from atgen_ray.config import ModelConfig, PromptConfig, TrainingConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.stored import Stored, at_path
from atgen_ray.models.loading import load_model, load_tokenizer, load_tuned
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.training import TrainingExample
from atgen_ray.training.batching import build_row, enable_packing, pack_rows, pad_rows
from atgen_ray.training.fine_tune import fine_tune
from atgen_ray.training.methods import check_method, check_start
from atgen_ray.training.schedule import schedule_steps
from atgen_ray.training.trainer import find_kept, sum_losses

EXAMPLES = [
    TrainingExample(f"e{index:02d}", "count " * (1 + 7 * (index % 5)), f"answer {index % 3}")
    for index in range(10)
]
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.fixture(scope="session")
def model(tiny_model: str) -> ModelConfig:
    return ModelConfig(id=tiny_model, dtype="float32", max_prompt_tokens=80, max_new_tokens=10)


def tune(
    model: ModelConfig, folder: Path, start: Stored | None = None, dev: Any = None, **training: Any
) -> dict[str, Any]:
    folder.mkdir()
    config = TrainingConfig(**{"epochs": 2, "batch_size": 4, "learning_rate": 5e-3} | training)
    examples = [asdict(example) for example in EXAMPLES]
    held = [asdict(example) for example in dev or []]
    return fine_tune(
        examples, model, PromptConfig(), config, 7, 1, lambda *_: None, start, 1, folder, held
    )


def losses(result: dict[str, Any]) -> list[float]:
    return [step["loss"] for step in result["losses"]]


def test_small_updates_of_full_fine_tuning_are_saved_whole(
    model: ModelConfig, tmp_path: Path
) -> None:
    """They are below the last place of a bfloat16."""
    half = model.model_copy(update={"dtype": "bfloat16"})
    tune(half, tmp_path / "full", method="full", learning_rate=1e-6, epochs=1, warmup_fraction=0.0)
    before, after = load_model(model).state_dict(), load_tuned(half, tmp_path / "full").state_dict()
    name = "model.layers.0.mlp.up_proj.weight"
    assert (before[name] != after[name]).float().mean() > 0.5


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "full"])
def test_each_method_lowers_the_loss_and_loads_again(
    method: str, model: ModelConfig, tmp_path: Path
) -> None:
    result = tune(model, tmp_path / "out", method=method, epochs=6)
    assert np.mean(losses(result)[-3:]) < np.mean(losses(result)[:3]) - 0.5
    files = {path.name for path in (tmp_path / "out").iterdir()}
    if method == "full":
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
    else:
        assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= files
    tuned = load_tuned(model, tmp_path / "out")
    builder = PromptBuilder(load_tokenizer(model), PromptConfig(), 80)
    rows = [build_row(builder, example.text, example.answer, 10) for example in EXAMPLES]
    with torch.no_grad():
        loss, tokens = sum_losses(tuned, pad_rows(rows, 2), find_kept(tuned))
    assert float(loss) / tokens < np.mean(losses(result)[:3]) - 0.5


def test_an_adapter_of_a_packaged_model_is_loaded_as_it_is(
    model: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model.id, tmp_path / "packaged" / "weights")
    (tmp_path / "packaged" / "__init__.py").touch()
    (tmp_path / "packaged-1.dist-info").mkdir()
    (tmp_path / "packaged-1.dist-info" / "METADATA").write_text("Name: packaged\nVersion: 1\n")
    (tmp_path / "packaged-1.dist-info" / "top_level.txt").write_text("packaged\n")
    monkeypatch.syspath_prepend(tmp_path)
    tune(model.model_copy(update={"id": "package://packaged/weights"}), tmp_path / "out", epochs=1)
    loaded = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "out"))
    assert loaded.peft_config["default"].base_model_name_or_path == str(
        tmp_path / "packaged" / "weights"
    )
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
        == load_tokenizer(model).chat_template
    )


def test_padding_side_pad_token_packing_and_accumulation_do_not_matter(
    model: ModelConfig, tmp_path: Path
) -> None:
    curves = {"packed": losses(tune(model, tmp_path / "packed"))}
    curves["padded"] = losses(tune(model, tmp_path / "padded", packing=False))
    curves["split"] = losses(tune(model, tmp_path / "split", accumulation=4))
    curves["checkpointing"] = losses(tune(model, tmp_path / "saving", gradient_checkpointing=True))
    for side in ("left", "right"):
        copy = tmp_path / f"model-{side}"
        shutil.copytree(model.id, copy)
        tokenizer = AutoTokenizer.from_pretrained(copy)
        tokenizer.padding_side = side
        tokenizer.pad_token = (
            tokenizer.eos_token if side == "left" else tokenizer.convert_ids_to_tokens(0)
        )
        tokenizer.save_pretrained(copy)
        other = model.model_copy(update={"id": str(copy)})
        curves[side] = losses(tune(other, tmp_path / side, packing=False))
    for name, curve in curves.items():
        np.testing.assert_allclose(curve, curves["packed"], atol=1e-4, err_msg=name)


LLAMA_LIKE = SHAPE | {"head_dim": 16, "num_key_value_heads": 1}


@pytest.mark.parametrize(
    ("config", "settings", "taken"),
    [
        (MistralConfig, LLAMA_LIKE | {"sliding_window": 5}, True),
        (Qwen3Config, LLAMA_LIKE, True),
        (GemmaConfig, LLAMA_LIKE, True),
        (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 2}, True),
        (Gemma2Config, LLAMA_LIKE, False),  # caps its attention
        (
            BloomConfig,
            {"hidden_size": 32, "n_layer": 2, "n_head": 2},
            False,
        ),  # biases it by distance
    ],
)
def test_packed_and_padded_losses_are_equal_or_packing_is_not_taken(
    config: Any, settings: Any, taken: bool
) -> None:
    torch.manual_seed(0)
    tokens = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    network = AutoModelForCausalLM.from_config(
        config(initializer_range=0.2, **tokens, **settings)
    ).eval()
    draw = np.random.default_rng(0)
    rows = []
    for length in (20, 3, 14, 9):
        ids = draw.integers(1, 50, length).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * (length // 2) + ids[length // 2 :]})
    padded, count = sum_losses(network, pad_rows(rows, 0), find_kept(network))
    assert enable_packing(network, rows) == taken
    batch = pack_rows(rows) if taken else pad_rows(rows, 0)
    again, same = sum_losses(network, batch, find_kept(network))
    assert count == same
    assert again.item() == pytest.approx(padded.item(), rel=1e-5)


def test_the_loss_is_that_of_transformers(model: ModelConfig) -> None:
    network = load_tuned(model, None)
    builder = PromptBuilder(load_tokenizer(model), PromptConfig(), 80)
    batch = pad_rows(
        [build_row(builder, example.text, example.answer, 10) for example in EXAMPLES], 2
    )
    with torch.no_grad():
        loss, count = sum_losses(network, batch, kept="chosen")
        plain, _ = sum_losses(network, batch, kept="all")
        expected = network(**batch).loss
    assert float(loss) / count == pytest.approx(float(expected), rel=1e-5)
    assert float(plain) == pytest.approx(float(loss), rel=1e-5)


class LastLogits(torch.nn.Module):
    """The forward pass of Unsloth 2026.10: logits of a number of last positions, and all of them
    where it is given a tensor of chosen ones.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.asked: list[int] = []

    def forward(self, input_ids: Any, logits_to_keep: Any = 0, **more: Any) -> Any:
        kept = 0 if isinstance(logits_to_keep, torch.Tensor) else logits_to_keep
        self.asked.append(kept)
        return self.network(input_ids=input_ids, logits_to_keep=kept, **more)


def test_the_loss_takes_the_logits_that_unsloth_gives(model: ModelConfig) -> None:
    network = LastLogits(load_tuned(model, None))
    builder = PromptBuilder(load_tokenizer(model), PromptConfig(), 80)
    rows = [build_row(builder, example.text, example.answer, 10) for example in EXAMPLES]
    rows[3]["weights"] = [2] * len(rows[3]["labels"])
    batch = pad_rows(rows, 2)
    with torch.no_grad():
        expected, count = sum_losses(network.network, batch, "chosen")
        loss, same = sum_losses(network, batch, find_kept(network, unsloth=True))
    assert same == count
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert 0 < network.asked[0] < batch["labels"].shape[1]


def test_small_sets_ignore_the_dev_loss_and_large_ones_stop_on_it(
    model: ModelConfig, tmp_path: Path
) -> None:
    contrary = [TrainingExample("d0", "count ", "something else entirely")]
    small = tune(model, tmp_path / "small", dev=contrary, epochs=8)
    assert (small["steps"], small["dev_losses"]) == (24, [])
    large = tune(
        model,
        tmp_path / "large",
        dev=contrary,
        epochs=8,
        early_stopping={"from_examples": 5, "patience": 1},
    )
    found = large["dev_losses"]
    assert large["steps"] == 3 * len(found) < 24
    assert found[-1] > min(found)
    # The adapter is that of the lowest dev loss, not the last.
    builder = PromptBuilder(load_tokenizer(model), PromptConfig(), 80)
    tuned = load_tuned(model, tmp_path / "large")
    with torch.no_grad():
        rows = [build_row(builder, example.text, example.answer, 10) for example in contrary]
        loss, count = sum_losses(tuned, pad_rows(rows, 2), "chosen")
    assert float(loss) / count == pytest.approx(min(found), rel=1e-3)


def test_a_training_shorter_than_an_epoch_keeps_its_last_weights(
    model: ModelConfig, tmp_path: Path
) -> None:
    early: dict[str, Any] = {
        "early_stopping": {"from_examples": 5},
        "epochs": 0.5,
        "warmup_fraction": 0.0,
    }
    short = tune(model, tmp_path / "short", dev=EXAMPLES[:1], **early)
    assert len(short["dev_losses"]) == 1
    saved = load_file(tmp_path / "short" / "adapter_model.safetensors")
    assert any(weight.abs().max() > 0 for name, weight in saved.items() if "lora_B" in name)


def test_tensorboard_gets_the_losses(model: ModelConfig, tmp_path: Path) -> None:
    config = TrainingConfig(epochs=1, batch_size=4, trackers=["tensorboard"])
    examples = [asdict(example) for example in EXAMPLES]
    fine_tune(
        examples,
        model,
        PromptConfig(),
        config,
        7,
        1,
        lambda *_: None,
        None,
        1,
        None,
        logs=str(tmp_path / "logs"),
    )
    assert [path for path in (tmp_path / "logs").rglob("events*") if path.stat().st_size > 200]


@pytest.mark.parametrize(
    ("settings", "mistake"),
    [
        (
            {"backend": "unsloth"},
            "training.backend is 'unsloth', which needs a GPU for every worker; there is none here: "
            "set training.backend=transformers",
        ),
        ({"backend": "unsloth"}, r"needs: pip install 'atgen-ray\[unsloth\]'"),
    ],
)
def test_what_a_method_lacks_is_said_in_one_line(settings: dict[str, Any], mistake: str) -> None:
    with pytest.raises(UserError, match=mistake):
        check_method(TrainingConfig(**settings), use_gpu=False)


def test_a_warm_start_needs_the_same_kind_of_result(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.warm_start finds a full model"):
        check_start(at_path(tmp_path), TrainingConfig())
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"training\.warm_start finds an adapter"):
        check_start(at_path(tmp_path), TrainingConfig(method="full"))
    check_start(at_path(tmp_path), TrainingConfig(method="dora"))


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_shares_never_change_what_a_step_learns(workers: int, accumulation: int) -> None:
    lengths = [5, 50, 7, 90, 3, 60, 8]
    whole = schedule_steps(lengths, 3, 2.5, 1)
    shared = schedule_steps(lengths, 3, 2.5, 1, workers, accumulation)
    assert len(whole) == len(shared) == 8
    for one, many in zip(whole, shared, strict=True):
        assert len(many) == workers
        assert all(len(hand) == accumulation for hand in many)
        assert sorted(one[0][0]) == sorted(
            index for hand in many for micro in hand for index in micro
        )
    assert sorted(index for step in whole[:3] for index in step[0][0]) == list(range(7))
