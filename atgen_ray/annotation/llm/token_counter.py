"""Tokenizers that count the prompts of paid models on this machine; nothing is downloaded."""

import logging
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from atgen_ray.config.annotators.paid_models import RemoteAnnotatorConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.locations import locate

CountTokens = Callable[[str], int]

_LOADING = threading.Lock()

logger = logging.getLogger(__name__)


def find_counter(config: RemoteAnnotatorConfig, key: str) -> CountTokens | None:
    """Return the function that counts the tokens of a text for the annotating model, or None where
    this machine has no tokenizer for it.

    `annotator.tokenizer` comes first, then tiktoken for OpenAI's own models, then a folder or hub
    id that is named as the model of a server at `base_url`.

    Raises:
        UserError: `key`.tokenizer is set, and nothing of that name can be loaded here.
    """
    if config.tokenizer is not None:
        found = _load_encoding(config.tokenizer) or _load_tokenizer(config.tokenizer)
        if found is None:
            raise UserError(
                f"{key}.tokenizer is {config.tokenizer!r}, expected a folder with tokenizer.json, "
                "a hub id in the local cache, or an encoding of tiktoken whose file is in "
                "TIKTOKEN_CACHE_DIR"
            )
        return found
    if config.base_url is not None:
        return _load_tokenizer(config.model)
    if config.type == "openai":  # type: ignore[attr-defined]
        return _load_encoding(_name_encoding(config.model))
    return None


def _name_encoding(model: str) -> str | None:
    """Return the name of tiktoken's encoding for one of OpenAI's models."""
    try:
        from tiktoken import encoding_name_for_model
    except ImportError:
        return None
    try:
        return encoding_name_for_model(model)
    except KeyError:
        return None


def _load_encoding(name: str | None) -> CountTokens | None:
    """Return a counter by tiktoken, whose file must be in its cache."""
    if name is None:
        return None
    try:
        import tiktoken.load
    except ImportError:
        return None
    with _LOADING:
        download = tiktoken.load.read_file
        tiktoken.load.read_file = _refuse_download
        try:
            encoding: Any = tiktoken.get_encoding(name)
        except (OSError, ValueError):
            return None
        finally:
            tiktoken.load.read_file = download
    return lambda text: len(encoding.encode_ordinary(text))


def _refuse_download(blobpath: str) -> bytes:
    raise OSError(f"{blobpath} is not in the cache")


def _load_tokenizer(model: str) -> CountTokens | None:
    """Return a counter by the tokenizer in a folder, or of a hub id in the local cache."""
    from tokenizers import Tokenizer

    file = _find_tokenizer(model)
    if file is None:
        return None
    try:
        tokenizer: Any = Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises nothing narrower
        _tell_broken(file, " ".join(str(error).split()))
        return None
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def _find_tokenizer(model: str) -> Path | None:
    """Return the tokenizer's file in a folder, or of a hub id in the local cache."""
    try:
        file = Path(locate(model, "annotator.tokenizer")).expanduser() / "tokenizer.json"
        if file.is_file():
            return file
        if "/" not in model:  # no hub id
            return None
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model, "tokenizer.json")
    except (UserError, OSError, ValueError):  # a name that is no path and no hub id
        return None
    return Path(cached) if isinstance(cached, str) else None


@lru_cache(maxsize=64)
def _tell_broken(file: Path, reason: str) -> None:
    """Warn once of a file that cannot be read: money is held for more tokens than there are."""
    logger.warning(
        "%s is no tokenizer, so every byte of a prompt counts as a token: %s", file, reason
    )
