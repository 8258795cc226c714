"""From a model id to files that every engine can load.

A GGUF file is converted once to safetensors in the user's cache; hub ids pass through to the libraries.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from platformdirs import user_cache_path

from atgen_ray.config import ModelConfig
from atgen_ray.errors import UserError
from atgen_ray.locations import locate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def resolve_checkpoint(model: str, key: str = "model.id") -> str:
    """The folder (or hub id) that transformers, vLLM and sentence-transformers load for `model`.

    Raises:
        UserError: the path does not exist or holds no checkpoint; `key` is the configuration key it names.
    """
    location = locate(model, key)
    try:
        path = Path(location).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError) as error:  # too long a name, or the home of nobody
        raise UserError(f"{key} is {model[:80]!r}, which is no path: {error.args[-1]}") from None
    if path.suffix == ".gguf":
        if not is_file:
            raise UserError(f"{key} is '{model}', expected an existing .gguf file")
        try:
            return str(_convert_gguf(path))
        except Exception as error:  # a broken or hostile file, on which readers stumble in every way there is
            raise UserError(f"{key} is '{model}', which cannot be read: {_first_line(error)}") from error
    if is_folder:
        if not (path / "config.json").is_file():
            raise UserError(f"{key} is '{model}', expected a checkpoint, but the folder has no config.json")
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

        quantized: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        config = quantized.config
        # transformers refuses to save what came from GGUF as "quantized": rebuild the model from its configuration.
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


def load_tokenizer(model: ModelConfig, key: str = "model.id") -> "PreTrainedTokenizerBase":
    """The model's tokenizer; `key` is the configuration key that names the model.

    Raises:
        UserError: no checkpoint of that name, here or on the hub, or one without a tokenizer.
    """
    source = resolve_checkpoint(model.id, key)
    try:
        if _names_no_class(Path(source)):
            # AutoTokenizer takes the same class for it, but imports torch and all model code: five seconds a process.
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(source)
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{key} is {model.id!r}, whose tokenizer cannot be loaded: {_first_line(error)}") from error
    return tokenizer


def _names_no_class(folder: Path) -> bool:
    """Whether the tokenizer in `folder` is all in its tokenizer.json, as transformers 5 writes what needs no class."""
    settings = folder / "tokenizer_config.json"
    if not (settings.is_file() and (folder / "tokenizer.json").is_file()):
        return False
    tree = json.loads(settings.read_text(encoding="utf-8"))
    return isinstance(tree, dict) and tree.get("tokenizer_class") == "TokenizersBackend" and "auto_map" not in tree


def find_context(model: ModelConfig) -> int | None:
    """Positions that the model has for prompt and answer together; None where its configuration does not say."""
    from transformers import AutoConfig

    source = resolve_checkpoint(model.id)
    config = AutoConfig.from_pretrained(
        source, revision=model.revision, trust_remote_code=model.trust_remote_code
    ).get_text_config()
    positions: int | None = getattr(config, "max_position_embeddings", None)
    return positions


def load_model(model: ModelConfig, dtype: "str | None" = None) -> Any:
    """The base model for causal language modelling, in `dtype` (default: model.dtype), on the CPU, in eval mode.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    from atgen_ray.hardware import resolve_dtype

    with loading("model.id", model.id):
        loaded = AutoModelForCausalLM.from_pretrained(
            resolve_checkpoint(model.id),
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,  # never the pickle beside or instead of it
            dtype=resolve_dtype(dtype or model.dtype),
        )
    return loaded.eval()


@contextmanager
def loading(key: str, name: str) -> Iterator[None]:
    """What goes wrong in the block, where the checkpoint `name` of the configuration key `key` is loaded, in one line.

    Raises:
        UserError: it cannot be loaded, and why.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{key} is '{name}', which cannot be loaded: {_first_line(error)}") from error


def is_adapter(folder: Path) -> bool:
    """Whether a round's fine-tuning left an adapter in `folder`; full fine-tuning leaves a whole model."""
    return (folder / "adapter_config.json").is_file()


# What fine-tuning changes is often smaller than the last place of a 16-bit number. Rounding to 16 bits loses it in the
# weights (merged) and in the outputs of a layer (beside them) alike: after four steps of training a third was left.
TUNED_DTYPE = "float32"


def load_tuned(model: ModelConfig, tuned: Path | None) -> Any:
    """The model as a round left it, with the adapter in the folder `tuned` merged into its weights, or the model in it.

    A tuned model computes in float32, whatever model.dtype is; the base model (None) in model.dtype.
    """
    if tuned is None:
        return load_model(model)
    loaded = load_unmerged(model, tuned)
    return loaded.merge_and_unload().eval() if is_adapter(tuned) else loaded


def load_unmerged(model: ModelConfig, tuned: Path) -> Any:
    """As `load_tuned`, but an adapter stays beside the base, as a PeftModel in float32."""
    if not is_adapter(tuned):
        return load_model(model.model_copy(update={"id": str(tuned), "revision": None}), TUNED_DTYPE)
    from peft import PeftModel

    return PeftModel.from_pretrained(load_model(model, TUNED_DTYPE), str(tuned)).eval()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
