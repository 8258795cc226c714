"""Number of tokens of texts: by the model's own tokenizer where it is on this machine, else by an
estimate that says so.

Nothing is downloaded or converted, and neither torch nor transformers is imported.
"""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from atgen_ray.core.checkpoints import find_converted
from atgen_ray.core.errors import UserError
from atgen_ray.core.locations import locate

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTES_PER_TOKEN = 4  # of English in the vocabularies of today
TOKENIZER = "tokenizer.json"


def count_tokens(model: str, texts: list[str]) -> tuple[list[int], bool]:
    """Return the tokens of each text, without those of a chat template, and whether they are
    counted rather than estimated.

    Args:
        model: the value of model.id; an empty text for none.
    """
    tokenizer = _load(model) if model else None
    if tokenizer is None:
        return [
            -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN) for text in texts
        ], False
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [len(each.ids) for each in encoded], True


@lru_cache(maxsize=4)
def _load_file(file: str, changed: float) -> "Tokenizer | None":
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(file)
    except Exception:  # the library raises nothing narrower for a file that it cannot read
        return None


@lru_cache(maxsize=4)
def _find_gguf(path: str, changed: float) -> Path | None:
    # The converted folder is named by the file's content, which takes seconds to hash.
    return find_converted(Path(path))


def _load(model: str) -> "Tokenizer | None":
    try:
        folder = _find_folder(model)
        file = folder / TOKENIZER if folder is not None else None
        if file is None or not file.is_file():
            return None
        return _load_file(str(file), file.stat().st_mtime)
    except (OSError, UserError, ValueError):
        return None


def _find_folder(model: str) -> Path | None:
    """Return the folder on this machine with the model's tokenizer, or None."""
    if "://" in model and not model.startswith("package://"):
        return None
    path = Path(locate(model, "model.id")).expanduser()
    if path.suffix == ".gguf":
        return _find_gguf(str(path), path.stat().st_mtime) if path.is_file() else None
    if path.is_dir():
        return path
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, TOKENIZER)
    return Path(cached).parent if isinstance(cached, str) else None
