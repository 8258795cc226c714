"""Resolution of a model's id to files that every engine can load.

A checkpoint behind a URL is fetched once a node, and a GGUF file is converted once to safetensors,
both in the user's cache. Hub ids are left to the libraries.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path

from atgen_ray.core.errors import StorageUnavailableError, UserError
from atgen_ray.core.locations import SCHEME, locate
from atgen_ray.core.stored import Stored, explain_trouble, find_stored, open_url

ADAPTER_CONFIG = "adapter_config.json"  # every adapter has it, and no whole model


PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")  # files of weights that may hold code
WEIGHT_FILES = (".safetensors", *PICKLES, ".gguf")
# What of a repository on the hub is never read: pickles, and weights of other libraries.
UNREAD = (
    *(f"*{ending}" for ending in PICKLES),
    "*.h5",
    "*.ot",
    "*.msgpack",
    "onnx/*",
    "openvino/*",
)
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def find_remote(model: str, key: str) -> Stored | None:
    """Return a reference to the checkpoint if `model`, the value of `key`, is a URL as
    s3://BUCKET/FOLDER; None if it is none.

    Raises:
        UserError: nothing is there, or it cannot be opened.
    """
    if "://" not in model or model.startswith(SCHEME):
        return None
    named = f"{key} is {model[:200]!r}"
    try:
        filesystem, path = open_url(model)
        with explain_trouble(filesystem, path):
            return find_stored(filesystem, path)
    except FileNotFoundError:
        raise UserError(f"{named}, expected a folder or .gguf file, and nothing is there") from None
    except (ImportError, ValueError, StorageUnavailableError) as error:
        raise UserError(f"{named}, which cannot be opened: {first_line(error)}") from error


def resolve_checkpoint(model: str, key: str = "model.id", weights: bool = True) -> str:
    """Return the folder or hub id that transformers, vLLM and sentence-transformers load for
    `model`, on this node.

    Args:
        weights: also fetch the weights of a checkpoint behind a URL; a tokenizer needs none.

    Raises:
        UserError: the path does not exist, holds no checkpoint, or has its weights in a pickle;
            the message names the configuration key `key`.
    """
    if (remote := find_remote(model, key)) is not None:
        location = str((remote if weights else remote.leave_out(WEIGHT_FILES)).local())
    else:
        location = locate(model, key)
    try:
        path = Path(location).expanduser()
        is_file = path.is_file()
        is_folder = path.is_dir()
    except (OSError, RuntimeError) as error:  # the name is too long, or ~USER has no home
        raise UserError(f"{key} is {model[:80]!r}, which is no path: {error.args[-1]}") from None
    if path.suffix == ".gguf":
        if not is_file:
            raise UserError(f"{key} is '{model}', expected an existing .gguf file")
        try:
            return str(_convert_gguf(path))
        except Exception as error:  # readers of a broken or hostile file raise errors of any class
            raise UserError(
                f"{key} is '{model}', which cannot be read: {first_line(error)}"
            ) from error
    if is_folder:
        if not (path / "config.json").is_file():
            raise UserError(
                f"{key} is '{model}', expected a checkpoint, but the folder has no config.json"
            )
        if weights:
            refuse_pickles(path, f"{key} is '{model}'")
        return str(path)
    if path.is_absolute() or location.startswith((".", "~")):
        raise UserError(f"{key} is '{model}', expected an existing folder, .gguf file or hub id")
    return location


def refuse_pickles(folder: Path, named: str) -> None:
    """Check that no part of the checkpoint, adapter or encoder in `folder` has its weights in
    pickles alone: libraries fall back to them, and a pickle may hold code.

    Args:
        named: the beginning of the message, which says what names the folder.

    Raises:
        UserError: a folder has pickles and no safetensors.
    """
    for place in (folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())):
        files = {path.name for path in place.iterdir()}
        if pickled := find_pickle(files):
            raise UserError(explain_pickle(named, (place / pickled).relative_to(folder)))


def fetch_safetensors(model: str, key: str, revision: str | None = None) -> str:
    """Return the folder of the checkpoint `model` for a library that would take pickles too.

    Of a hub id no pickle is fetched: sentence-transformers reads those of an encoder's later
    modules, and unsloth those of a base, where there is nothing else.

    Raises:
        UserError: nothing is there, or the weights of a part are in a pickle alone.
    """
    source = resolve_checkpoint(model, key)
    if Path(source).expanduser().is_dir():
        return source
    from huggingface_hub import snapshot_download

    with loading(key, model):
        source = snapshot_download(source, revision=revision, ignore_patterns=[*UNREAD])
    refuse_pickles(Path(source), f"{key} is '{model}'")  # an older cache may hold them
    return source


def find_pickle(files: Collection[str]) -> str | None:
    """Return the first pickle among the names of a folder's files, or None if there is none, or
    the weights are there as safetensors too, which all libraries prefer.
    """
    if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in files):
        return None
    return min(
        (name for name in files if name.endswith(PICKLES) and is_weights(name)), default=None
    )


def is_weights(name: str) -> bool:
    """Return whether a library may read the file as weights; a trainer's own state it does not."""
    return name not in ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt")


def explain_pickle(named: str, file: object) -> str:
    """Return the line that refuses a pickle."""
    return (
        f"{named}, which has no safetensors but a pickle ({file}), which is never loaded: load it "
        f"once with its library where you trust it, and save it as safetensors to a folder"
    )


def _convert_gguf(path: Path) -> Path:
    """Return the folder with dequantised safetensors of a GGUF file, made once for its content."""
    target = _name_converted(path)
    cache = target.parent
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{target.name.rpartition('-')[2]}.lock"):
        if target.is_dir():
            return target
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        quantized: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
        config = quantized.config
        # transformers refuses to save a model that came from GGUF, which it takes for quantised, so
        # the model is built anew from its configuration.
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model: Any = AutoModelForCausalLM.from_config(config)
        model.load_state_dict(quantized.state_dict())
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        # Written elsewhere and renamed, so that a kill leaves no half checkpoint at `target`.
        staged = Path(tempfile.mkdtemp(dir=cache, prefix=".converting-"))
        try:
            model.to(torch.bfloat16).save_pretrained(staged)
            tokenizer.save_pretrained(staged)
            staged.rename(target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return target


def find_converted(path: Path) -> Path | None:
    """Return the folder with the safetensors of a GGUF file if it was converted before."""
    target = _name_converted(path)
    return target if target.is_dir() else None


def _name_converted(path: Path) -> Path:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()[:16]
    return user_cache_path("atgen-ray") / "checkpoints" / f"{path.stem.lower()}-{digest}"


def is_adapter(folder: Path) -> bool:
    """Return whether `folder` holds an adapter; full fine-tuning leaves a whole model instead."""
    return (folder / ADAPTER_CONFIG).is_file()


@contextmanager
def loading(key: str, name: str) -> Iterator[None]:
    """Turn errors of the block, which loads the checkpoint `name` of the configuration key `key`,
    into one line.

    Raises:
        UserError: the checkpoint cannot be loaded; the message says why.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{key} is '{name}', which cannot be loaded: {first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or the name of its class if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
