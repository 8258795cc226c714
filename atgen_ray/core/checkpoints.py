"""From a model's id to files that every engine can load.

A GGUF file is converted once to safetensors in the user's cache; hub ids pass through to the
libraries.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path

from atgen_ray.core.errors import UserError
from atgen_ray.core.locations import locate


def resolve_checkpoint(model: str, key: str = "model.id") -> str:
    """The folder (or hub id) that transformers, vLLM and sentence-transformers load for `model`.

    Raises:
        UserError: the path does not exist or holds no checkpoint; `key` is the configuration key it
            names.
    """
    location = locate(model, key)
    try:
        path = Path(location).expanduser()
        is_file = path.is_file()
        is_folder = path.is_dir()
    except (OSError, RuntimeError) as error:  # too long a name, or the home of nobody
        raise UserError(f"{key} is {model[:80]!r}, which is no path: {error.args[-1]}") from None
    if path.suffix == ".gguf":
        if not is_file:
            raise UserError(f"{key} is '{model}', expected an existing .gguf file")
        try:
            return str(_convert_gguf(path))
        except (
            Exception
        ) as error:  # a broken or hostile file, on which readers stumble in every way there is
            raise UserError(
                f"{key} is '{model}', which cannot be read: {first_line(error)}"
            ) from error
    if is_folder:
        if not (path / "config.json").is_file():
            raise UserError(
                f"{key} is '{model}', expected a checkpoint, but the folder has no config.json"
            )
        return str(path)
    if path.is_absolute() or location.startswith((".", "~")):
        raise UserError(f"{key} is '{model}', expected an existing folder, .gguf file or hub id")
    return location


def _convert_gguf(path: Path) -> Path:
    """Dequantised safetensors of a GGUF file, made once per file content."""
    digest = hashlib.file_digest(path.open("rb"), "blake2b").hexdigest()[:16]
    cache = user_cache_path("atgen-ray") / "checkpoints"
    target = cache / f"{path.stem.lower()}-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{digest}.lock"):
        if target.is_dir():
            return target
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        quantized: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
        config = quantized.config
        # transformers refuses to save what came from GGUF as "quantized": rebuild the model from
        # its configuration.
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model: Any = AutoModelForCausalLM.from_config(config)
        model.load_state_dict(quantized.state_dict())
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        aside = Path(tempfile.mkdtemp(dir=cache, prefix=".converting-"))
        try:
            model.to(torch.bfloat16).save_pretrained(aside)
            tokenizer.save_pretrained(aside)
            aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return target


def is_adapter(folder: Path) -> bool:
    """Whether a round's fine-tuning left an adapter in `folder`; full fine-tuning leaves a whole
    model.
    """
    return (folder / "adapter_config.json").is_file()


@contextmanager
def loading(key: str, name: str) -> Iterator[None]:
    """What goes wrong in the block, where the checkpoint `name` of the configuration key `key` is
    loaded, in one line.

    Raises:
        UserError: it cannot be loaded, and why.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{key} is '{name}', which cannot be loaded: {first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
