"""From a model id to files that every engine can load.

A GGUF file is converted once to safetensors in the user's cache; hub ids pass through to the
libraries.
"""

import json
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atgen_ray.config import ModelConfig
from atgen_ray.core.checkpoints import first_line, is_adapter, loading, resolve_checkpoint
from atgen_ray.core.errors import UserError
from atgen_ray.ray_runtime.hardware import resolve_dtype

WEIGHTS = "adapter_model.safetensors"

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(model: ModelConfig, key: str = "model.id") -> "PreTrainedTokenizerBase":
    """The model's tokenizer; `key` is the configuration key that names the model.

    Raises:
        UserError: no checkpoint of that name, here or on the hub, or one without a tokenizer.
    """
    source = resolve_checkpoint(model.id, key)
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
    """Whether the tokenizer in `folder` is all in its tokenizer.json, as transformers 5 writes what
    needs no class.
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
    """Positions that the model has for prompt and answer together; None where its configuration
    does not say.
    """
    from transformers import AutoConfig

    source = resolve_checkpoint(model.id)
    config = AutoConfig.from_pretrained(
        source, revision=model.revision, trust_remote_code=model.trust_remote_code
    ).get_text_config()
    positions: int | None = getattr(config, "max_position_embeddings", None)
    return positions


def load_model(model: ModelConfig, dtype: "str | None" = None) -> Any:
    """The base model for causal language modelling, in `dtype` (default: model.dtype), on the CPU,
    in eval mode.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    with loading("model.id", model.id):
        loaded = AutoModelForCausalLM.from_pretrained(
            resolve_checkpoint(model.id),
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,  # never the pickle beside or instead of it
            dtype=resolve_dtype(dtype or model.dtype),
        )
    return loaded.eval()


# What fine-tuning changes is often smaller than the last place of a 16-bit number. Rounding to 16
# bits loses it in the weights (merged) and in the outputs of a layer (beside them) alike: after
# four steps of training a third was left.
TUNED_DTYPE = "float32"


def load_tuned(model: ModelConfig, tuned: Path | None) -> Any:
    """The model as a round left it, with the adapter in the folder `tuned` merged into its weights,
    or the model in it.

    A tuned model computes in float32, whatever model.dtype is; the base model (None) in
    model.dtype.
    """
    if tuned is None:
        return load_model(model)
    loaded = load_unmerged(model, tuned)
    return loaded.merge_and_unload().eval() if is_adapter(tuned) else loaded


def load_unmerged(model: ModelConfig, tuned: Path) -> Any:
    """As `load_tuned`, but an adapter stays beside the base, as a PeftModel in float32."""
    if not is_adapter(tuned):
        return load_model(
            model.model_copy(update={"id": str(tuned), "revision": None}), TUNED_DTYPE
        )
    from peft import PeftModel

    return PeftModel.from_pretrained(load_model(model, TUNED_DTYPE), str(tuned)).eval()


def digest_adapter(path: Path) -> str:
    """SHA-256 of the adapter's weights and settings."""
    with (path / WEIGHTS).open("rb") as file:
        digest = file_digest(file, "sha256")
    digest.update((path / "adapter_config.json").read_bytes())
    return digest.hexdigest()
