"""Loading of models, tokenizers and adapters, with safetensors only.

A GGUF file is converted once to safetensors in the user's cache (`core.checkpoints`); the libraries
load hub ids themselves.
"""

import json
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atgen_ray.config import ModelConfig, PromptConfig
from atgen_ray.core.checkpoints import (
    ADAPTER_WEIGHTS,
    first_line,
    is_adapter,
    loading,
    refuse_pickles,
    resolve_checkpoint,
)
from atgen_ray.core.errors import UserError
from atgen_ray.core.stored import Stored
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.ray_runtime.hardware import resolve_dtype

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(model: ModelConfig, key: str = "model.id") -> "PreTrainedTokenizerBase":
    """Return the model's tokenizer; `key` is the configuration key that names the model.

    Raises:
        UserError: no checkpoint of that name, here or on the hub, or one without a tokenizer.
    """
    source = resolve_checkpoint(model.id, key, weights=False)
    try:
        if _names_no_class(Path(source)):
            # AutoTokenizer takes the same class for it, but imports torch and all model code: five
            # seconds a process.
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(source)
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"{key} is {model.id!r}, whose tokenizer cannot be loaded: {first_line(error)}"
        ) from error
    return tokenizer


def _names_no_class(folder: Path) -> bool:
    """Return whether tokenizer.json in `folder` is the whole tokenizer, as transformers 5 writes
    one that needs no class.
    """
    settings = folder / "tokenizer_config.json"
    if not (settings.is_file() and (folder / "tokenizer.json").is_file()):
        return False
    tree = json.loads(settings.read_text(encoding="utf-8"))
    return (
        isinstance(tree, dict)
        and tree.get("tokenizer_class") == "TokenizersBackend"
        and "auto_map" not in tree
    )


def find_context(model: ModelConfig) -> int | None:
    """Return the positions that the model has for prompt and answer together, or None where its
    configuration does not say.
    """
    positions: int | None = getattr(read_model_config(model), "max_position_embeddings", None)
    return positions


def count_vocabulary(model: ModelConfig) -> int:
    """Return the token ids that the model has; its tokenizer may have more."""
    return int(read_model_config(model).vocab_size)


def find_stored_dtype(model: ModelConfig) -> "torch.dtype":
    """Return the number format that the checkpoint says its weights have; float32 if it says
    nothing.
    """
    import torch

    stored = getattr(read_model_config(model), "dtype", None)
    return stored if isinstance(stored, torch.dtype) else torch.float32


def read_model_config(model: ModelConfig) -> Any:
    """Return the part of the model's configuration that is about text."""
    from transformers import AutoConfig

    source = resolve_checkpoint(model.id, weights=False)
    return AutoConfig.from_pretrained(
        source, revision=model.revision, trust_remote_code=model.trust_remote_code
    ).get_text_config()


def load_model(model: ModelConfig, dtype: "str | None" = None, **settings: Any) -> Any:
    """Return the base model for causal language modelling, in `dtype` (default: model.dtype), on
    the CPU, in eval mode.

    Args:
        settings: further arguments of `from_pretrained`, as a quantisation and its device.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    with loading("model.id", model.id):
        loaded = AutoModelForCausalLM.from_pretrained(
            resolve_checkpoint(model.id),
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,  # never a pickle file
            dtype=resolve_dtype(dtype or model.dtype),
            **settings,
        )
    return loaded.eval()


# Updates of fine-tuning are often smaller than the last place of a 16-bit number. Rounding to 16
# bits loses them in merged weights, and also in the outputs of a layer with a separate adapter:
# after four steps of training a third of the effect was left.
TUNED_DTYPE = "float32"


def load_tuned(model: ModelConfig, tuned: Path | None) -> Any:
    """Return the model as a round left it: with the adapter in the folder `tuned` merged into its
    weights, or the whole model in that folder.

    A tuned model computes in float32, whatever model.dtype is; the base model (None) in
    model.dtype.
    """
    if tuned is None:
        return load_model(model)
    loaded = load_unmerged(model, tuned)
    return loaded.merge_and_unload().eval() if is_adapter(tuned) else loaded


def load_unmerged(model: ModelConfig, tuned: Path) -> Any:
    """Return the model as `load_tuned`, but with a separate adapter, as a PeftModel in float32."""
    if not is_adapter(tuned):
        return load_model(
            model.model_copy(update={"id": str(tuned), "revision": None}), TUNED_DTYPE
        )
    return attach_adapter(load_model(model, TUNED_DTYPE), tuned).eval()


def attach_adapter(model: Any, adapter: Path, **settings: Any) -> Any:
    """Return `model` as a PeftModel with the adapter in the folder `adapter`.

    Args:
        settings: further arguments of `PeftModel.from_pretrained`.

    Raises:
        UserError: the folder has no safetensors; peft would take a pickle then.
    """
    from peft import PeftModel

    check_adapter(adapter)
    return PeftModel.from_pretrained(model, str(adapter), **settings)


def check_adapter(adapter: Path) -> None:
    """Check that the adapter's weights are safetensors.

    Raises:
        UserError: they are not there, or in a pickle, which is never loaded.
    """
    if (adapter / ADAPTER_WEIGHTS).is_file():
        return
    refuse_pickles(adapter, f"the adapter is '{adapter}'")
    raise UserError(f"the adapter is '{adapter}', expected a folder with {ADAPTER_WEIGHTS}")


@dataclass(frozen=True)
class InferenceModel:
    """A model on the device of this process, and the builder of its prompts."""

    prompts: PromptBuilder
    model: Any
    device: str  # "cuda" or "cpu"


def load_for_inference(
    model: ModelConfig, prompt: PromptConfig, tuned: Stored | None, threads: int
) -> InferenceModel:
    """Return the model as a round left it (`load_tuned`), on the GPU if this process has one; torch
    computes with `threads` threads from now on.
    """
    import torch

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prompts = PromptBuilder(load_tokenizer(model), prompt, model.max_prompt_tokens)
    folder = None if tuned is None else tuned.local()
    return InferenceModel(prompts, load_tuned(model, folder).to(device), device)


def digest_adapter(path: Path) -> str:
    """Return the SHA-256 digest of the adapter's weights and settings."""
    check_adapter(path)
    with (path / ADAPTER_WEIGHTS).open("rb") as file:
        digest = file_digest(file, "sha256")
    digest.update((path / "adapter_config.json").read_bytes())
    return digest.hexdigest()


def digest_checkpoint(path: Path) -> str:
    """Return the SHA-256 digest of a whole model: its weights and its configuration."""
    digest = sha256((path / "config.json").read_bytes())
    for file in sorted(path.glob("*.safetensors")):
        with file.open("rb") as opened:
            digest.update(file_digest(opened, "sha256").digest())
    return digest.hexdigest()
