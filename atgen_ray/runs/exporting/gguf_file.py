"""A merged model as a GGUF file, for llama.cpp and Ollama.

llama.cpp's own converter is in no package that could be installed beside this one. So the file is
written with the package `gguf`, for the architectures that both it and transformers' reader know
well, and each file is read back by transformers and compared with the merged model.
"""

from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atgen_ray.config import ModelConfig, PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.models.loading import load_tokenizer, read_model_config
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.runs.exporting.gguf_vocabulary import find_cut, write_vocabulary
from atgen_ray.runs.exporting.merging import (
    Difference,
    Merged,
    compare_scores,
    score_all,
    without_bars,
)

if TYPE_CHECKING:
    import torch
    from gguf import GGUFWriter

# Architectures by `model_type`, and whether llama.cpp wants the rows of queries and keys in its own
# order (pairs of a rotation side by side).
ARCHITECTURES = {"llama": True, "qwen2": False, "qwen3": False}
# Nats a token: the weights are the same numbers, so only the order of sums differs.
MOST_APART = 1e-3


def check_convertible(model: ModelConfig) -> None:
    """Check that a GGUF file of the model can be written.

    Raises:
        UserError: it has another architecture or tokenizer; the line says what to run instead.
    """
    config = read_model_config(model)
    kind = str(config.model_type)
    rope = config.rope_parameters or {}
    odd = {
        f"its architecture is {kind}": kind not in ARCHITECTURES,
        f"its positions are scaled ({rope.get('rope_type')})": rope.get("rope_type")
        not in (None, "default"),
        "it has a sliding window": bool(getattr(config, "use_sliding_window", False)),
    }
    for reason, holds in odd.items():
        if holds:
            raise UserError(
                f"--what is 'gguf', but of model.id {reason}, expected one of "
                f"{', '.join(ARCHITECTURES)} without scaling: take --what merged, and run "
                f"llama.cpp's convert_hf_to_gguf.py on it"
            )
    find_cut(load_tokenizer(model))


def write_gguf(
    model: ModelConfig, prompt: PromptConfig, merged: Merged, folder: Path, path: Path, name: str
) -> Difference | None:
    """Write the merged model in `folder` to the file `path`, in the number format that it has, and
    read it back; return how far the answers are apart.

    Raises:
        UserError: what was written does not answer as the merged model does.
    """
    from gguf import GGUFWriter

    saved = model.model_copy(update={"id": str(folder), "revision": None})
    config = read_model_config(saved)
    prompts = PromptBuilder(load_tokenizer(saved), prompt, model.max_prompt_tokens)
    writer = GGUFWriter(path, config.model_type, use_temp_file=True)
    writer.add_name(name)
    _write_settings(writer, config, merged.dtype)
    write_vocabulary(writer, prompts, config.vocab_size)
    for key, tensor in _read_tensors(folder, config):
        _add_tensor(writer, key, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = _compare(path, merged)
    if found is not None and not found.largest <= MOST_APART:
        raise UserError(
            f"the GGUF file does not answer as the merged model does: log-probabilities differ "
            f"{found}, expected at most {MOST_APART}; take --what merged, and run llama.cpp's "
            f"convert_hf_to_gguf.py on it"
        )
    return found


def _write_settings(writer: "GGUFWriter", config: Any, dtype: str) -> None:
    """Enter the sizes of the model under the names of its architecture."""
    from gguf import LlamaFileType

    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float((config.rope_parameters or {}).get("rope_theta", 10_000.0)))
    writer.add_rope_dimension_count(width)
    writer.add_vocab_size(config.vocab_size)
    kinds = {
        "float32": LlamaFileType.ALL_F32,
        "float16": LlamaFileType.MOSTLY_F16,
        "bfloat16": LlamaFileType.MOSTLY_BF16,
    }
    writer.add_file_type(kinds[dtype])


def _read_tensors(folder: Path, config: Any) -> "Iterator[tuple[str, torch.Tensor]]":
    """Yield the weights of a checkpoint by their names in GGUF, with rows as llama.cpp wants
    them.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
    from safetensors import safe_open

    arch = next(key for key, name in MODEL_ARCH_NAMES.items() if name == config.model_type)
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118  it is no mapping
                named = names.get_name(key, try_suffixes=(".weight", ".bias"))
                if named is None:
                    raise UserError(f"--what is 'gguf', but the weight {key!r} has no place there")
                tensor = opened.get_tensor(key)
                if ARCHITECTURES[config.model_type] and ".q_proj." in key:
                    tensor = _pair_rotations(tensor, heads)
                elif ARCHITECTURES[config.model_type] and ".k_proj." in key:
                    tensor = _pair_rotations(tensor, groups)
                yield named, tensor


def _pair_rotations(tensor: "torch.Tensor", heads: int) -> "torch.Tensor":
    """Return weights (heads * width, ...) with both rows of a rotation side by side; transformers
    has all first rows of a head, then all second ones.
    """
    half = tensor.shape[0] // heads // 2
    apart = tensor.reshape(heads, 2, half, *tensor.shape[1:])
    return apart.transpose(1, 2).reshape(tensor.shape).contiguous()


def _add_tensor(writer: "GGUFWriter", name: str, tensor: "torch.Tensor") -> None:
    """Add a weight in its own number format; vectors are in float32, as llama.cpp wants them."""
    import torch
    from gguf import GGMLQuantizationType

    if tensor.dim() == 1:
        tensor = tensor.float()
    if tensor.dtype == torch.bfloat16:  # which numpy has not
        bits = tensor.contiguous().view(torch.uint8).numpy()
        writer.add_tensor(name, bits, raw_dtype=GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, tensor.contiguous().numpy())


def _compare(path: Path, merged: Merged) -> Difference | None:
    """Return how far the file, as transformers reads it, is from the merged model."""
    import torch
    from transformers import AutoModelForCausalLM

    if not merged.sequences:
        return None
    with torch.no_grad(), without_bars():
        with redirect_stderr(StringIO()):  # a bar that no setting of transformers hides
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32
            )
        return compare_scores(merged.scores, score_all(loaded.eval(), merged.sequences))
