"""Methods of fine-tuning: which model is loaded, which weights are trained, and what is saved.

lora (Hu et al., arXiv 2106.09685), rslora (Kalajdzievski, arXiv 2312.03732), dora (Liu et al.,
arXiv 2402.09353), qlora (Dettmers et al., arXiv 2305.14314) and full fine-tuning.
"""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from atgen_ray.config import ModelConfig, TrainingConfig
from atgen_ray.core.checkpoints import (
    ADAPTER_CONFIG,
    fetch_safetensors,
    find_remote,
    resolve_checkpoint,
)
from atgen_ray.core.errors import UserError
from atgen_ray.core.stored import Stored
from atgen_ray.models.loading import (
    attach_adapter,
    check_adapter,
    load_model,
    load_tokenizer,
)
from atgen_ray.ray_runtime.hardware import has_bfloat16, resolve_dtype


def check_method(training: TrainingConfig, use_gpu: bool) -> None:
    """Check that the packages and GPUs of the method and its backend exist.

    Raises:
        UserError: one is missing; every missing one has a line.
    """
    if mistakes := list(find_method_mistakes(training, use_gpu)):
        raise UserError("\n".join(mistakes))


def find_method_mistakes(training: TrainingConfig, use_gpu: bool) -> Iterator[str]:
    """Yield a line for every missing package or GPU that the method or its backend needs."""
    if training.method == "qlora":
        yield from _find_missing_package("method", "qlora", "bitsandbytes")
    if training.backend == "unsloth":
        if not use_gpu:
            yield (
                "training.backend is 'unsloth', which needs a GPU for every worker; there is none "
                "here: set training.backend=transformers"
            )
        yield from _find_missing_package("backend", "unsloth", "unsloth")


def _find_missing_package(key: str, value: str, package: str) -> Iterator[str]:
    """Yield a line if `package`, which the value of `key` needs, is not installed."""
    if find_spec(package) is None:
        yield f"training.{key} is '{value}', which needs: pip install 'atgen-ray[{value}]'"


def load_trainable(
    model: ModelConfig, training: TrainingConfig, start_from: Path | None, seed: int
) -> Any:
    """Return the model in training mode, with gradients for the weights that are trained.

    Args:
        start_from: folder that an earlier fine-tuning by the same method saved; None starts from
            the base model.
    """
    if training.backend == "unsloth":
        return _load_unsloth(model, training, start_from, seed)
    if training.method == "full":
        # Weights and optimiser in float32, arithmetic by autocast: in bfloat16 small updates would
        # round to nothing.
        if start_from is not None:
            model = model.model_copy(update={"id": str(start_from), "revision": None})
        return load_model(model, "float32").train()
    base = _load_quantized(model, training) if training.method == "qlora" else load_model(model)
    return add_adapter(base.train(), training, start_from)


def add_adapter(model: Any, training: TrainingConfig, start_from: Path | None) -> Any:
    """Return `model` with a LoRA adapter to train, new or continued."""
    from peft import LoraConfig, get_peft_model

    if training.gradient_checkpointing:
        model.enable_input_require_grads()
    if start_from is not None:
        return attach_adapter(model, start_from, is_trainable=True)
    config = LoraConfig(
        r=training.rank,
        lora_alpha=training.alpha,
        lora_dropout=training.dropout,
        target_modules=training.target_modules,
        use_rslora=training.method == "rslora",
        use_dora=training.method == "dora",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def gather_trained(model: Any) -> dict[str, Any]:
    """Return a copy of the weights that are trained, whole and on the CPU, by their names in the
    model.

    Every worker must call this, as each holds a part of a sharded model; all but the first get
    nothing.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    # Under its second name a tied weight would be saved a second time.
    named = model.named_parameters(remove_duplicate=False)
    tied = {name for name, _ in named} - {name for name, _ in model.named_parameters()}
    kept = {name: weight for name, weight in state.items() if name not in tied}
    if next(model.parameters()).device.type != "cpu":
        return kept
    return {name: weight.clone() for name, weight in kept.items()}  # the others go on to change


def save_trained(model: Any, weights: dict[str, Any], folder: Path, base: ModelConfig) -> None:
    """Write an ordinary peft folder, or after full fine-tuning a checkpoint in float32, with its
    tokenizer.

    Either can be loaded as it is: the base of an adapter is named by its hub id or its local path.
    In less than float32, small updates of all weights would round to nothing.

    Args:
        model: gives the configuration; its own weights are not read.
        weights: of the model, as `gather_trained` returns them to the first worker.
    """
    load_tokenizer(base).save_pretrained(str(folder))
    if hasattr(model, "peft_config"):
        model.peft_config["default"].base_model_name_or_path = name_base(base)
        model.peft_config["default"].revision = base.revision
        model.save_pretrained(str(folder), state_dict=weights)
        (folder / "README.md").unlink(missing_ok=True)
        return
    model.config._attn_implementation = None
    model.save_pretrained(str(folder), state_dict=weights)


def name_base(base: ModelConfig) -> str:
    """Return the name that AutoPeftModel loads the base of an adapter from: a hub id, or an
    absolute local path. A URL stays as it is, which AutoPeftModel does not load.
    """
    if find_remote(base.id, "model.id") is not None:
        return base.id
    source = resolve_checkpoint(base.id)
    path = Path(source).expanduser()
    return str(path.resolve()) if path.is_dir() else source


def check_start(start_from: Stored | None, training: TrainingConfig) -> None:
    """Check that this method can continue from the result of the last round.

    Raises:
        UserError: it cannot: one is an adapter and the other a full model.
    """
    if start_from is not None and start_from.holds(ADAPTER_CONFIG) == (training.method == "full"):
        was = "an adapter" if training.method == "full" else "a full model"
        raise UserError(
            f"training.method is '{training.method}', but training.warm_start finds {was}"
        )


def _load_quantized(model: ModelConfig, training: TrainingConfig) -> Any:
    """Return the base in 4 bits (NF4, double quantisation), on the device of this worker.

    It computes in model.dtype, but never in a bfloat16 that the hardware has to emulate.
    """
    from bitsandbytes.nn import Linear4bit
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    emulated = model.dtype == "bfloat16" and not has_bfloat16()
    dtype = "float32" if emulated else model.dtype
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=resolve_dtype(dtype),
    )
    loaded = load_model(
        model, dtype, quantization_config=quantization, device_map={"": find_worker_device()}
    )
    for module in loaded.modules():
        if isinstance(module, Linear4bit):
            # A CPU with AVX512-BF16 would repack the weights at the first evaluation, for good:
            # rounded once more, and without gradients for what is below them.
            module.support_avx512bf16_for_cpu = False
    return prepare_model_for_kbit_training(
        loaded, use_gradient_checkpointing=training.gradient_checkpointing
    )


def find_worker_device() -> str:
    """Return the device of this training worker, as "cuda:1" or "cpu".

    Workers of one node see all the GPUs of each other, so that the first GPU is not every worker's:
    Ray Train names each its own for accelerate.
    """
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return os.environ.get("ACCELERATE_TORCH_DEVICE", "cuda")


def _load_unsloth(
    model: ModelConfig, training: TrainingConfig, start_from: Path | None, seed: int
) -> Any:
    from unsloth import FastLanguageModel

    if start_from is None:
        source = fetch_safetensors(model.id, "model.id", model.revision)
    else:
        source = str(start_from)
        check_adapter(start_from)
    loaded, _ = FastLanguageModel.from_pretrained(
        source,
        max_seq_length=model.max_prompt_tokens + model.max_new_tokens,
        dtype=resolve_dtype(model.dtype),
        load_in_4bit=training.method == "qlora",
    )
    if start_from is not None:
        return FastLanguageModel.for_training(loaded)
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return FastLanguageModel.get_peft_model(
        loaded,
        r=training.rank,
        lora_alpha=training.alpha,
        lora_dropout=training.dropout,
        target_modules=linear
        if training.target_modules == "all-linear"
        else training.target_modules,
        use_rslora=training.method == "rslora",
        use_dora=training.method == "dora",
        use_gradient_checkpointing="unsloth" if training.gradient_checkpointing else False,
        random_state=seed,
    )
