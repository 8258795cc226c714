"""What a checkpoint is, here or on the hub, from names of its files and its `config.json`: weights
are neither read nor downloaded.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atgen_ray.core.checkpoints import find_remote, resolve_checkpoint
from atgen_ray.core.errors import UserError

HUB_SECONDS = 5.0


@dataclass(frozen=True)
class Checkpoint:
    """Description of a checkpoint without its weights. `files` are names within its folder."""

    config: dict[str, Any]
    files: frozenset[str]

    @property
    def text_config(self) -> dict[str, Any]:
        """Return the configuration of the language model, in a checkpoint that has other parts."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    @property
    def head_size(self) -> int | None:
        """Return the dimensions of an attention head; None if the configuration does not say."""
        config = self.text_config
        if config.get("head_dim"):
            return int(config["head_dim"])
        width = config.get("hidden_size") or config.get("n_embd")
        heads = config.get("num_attention_heads") or config.get("n_head")
        return int(width) // int(heads) if width and heads else None


def inspect_checkpoint(name: str, key: str, revision: str | None = None) -> Checkpoint:
    """Return configuration and file names of the checkpoint `name`, the value of `key`, here or on
    the hub.

    Raises:
        UserError: nothing is there, it cannot be reached, or its config.json cannot be read.
    """
    remote = find_remote(name, key)
    # Of a checkpoint behind a URL only the files without weights are fetched.
    source = resolve_checkpoint(name, key, weights=False)
    if Path(source).is_dir():
        file = Path(source, "config.json")
        files = frozenset(path.name for path in Path(source).iterdir())
        if remote is not None and remote.files is not None:
            files = frozenset(remote.files)
    else:
        file, files = _ask_hub(source, key, revision)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{key} is '{name}', whose config.json cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{key} is '{name}', whose config.json holds one {type(config).__name__}")
    return Checkpoint(config, files)


def _ask_hub(name: str, key: str, revision: str | None) -> tuple[Path, frozenset[str]]:
    """Return config.json of a checkpoint on the hub, downloaded to the local cache, and the names
    of all its files.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    named = f"{key} is '{name}'"
    # Without a network the local cache has to do: the hub's client would retry for half a minute.
    offline = constants.HF_HUB_OFFLINE or not _reaches_hub()
    try:
        file = Path(
            hf_hub_download(name, "config.json", revision=revision, local_files_only=offline)
        )
        if offline:
            return file, frozenset(path.name for path in file.parent.iterdir())
        siblings = HfApi().model_info(name, revision=revision).siblings or []
        return file, frozenset(sibling.rfilename for sibling in siblings)
    except GatedRepoError as error:
        reason = "which the hub gives only to those who were let in: ask there, and set HF_TOKEN"
        raise UserError(f"{named}, {reason}") from error
    except RepositoryNotFoundError as error:
        reason = "no folder here, and no model of the hub (or a private one: set HF_TOKEN)"
        raise UserError(f"{named}, {reason}") from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"{named}, which has no revision {revision!r}: see {key.rpartition('.')[0]}.revision"
        ) from error
    except LocalEntryNotFoundError as error:
        reason = "no folder here, not in the cache of the hub, and the hub cannot be reached"
        if constants.HF_HUB_OFFLINE:
            reason = (
                "no folder here and not in the cache of the hub, which HF_HUB_OFFLINE keeps "
                "from being asked"
            )
        raise UserError(f"{named}, {reason}") from error
    except EntryNotFoundError as error:
        raise UserError(
            f"{named}, which has no config.json, expected a checkpoint and not an adapter"
        ) from error
    except HFValidationError as error:
        raise UserError(
            f"{named}, expected an existing folder, .gguf file or hub id as ORGANISATION/NAME"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{named}, and the hub cannot be asked: {reason[:200]}") from error


def _reaches_hub() -> bool:
    """Return whether the hub answers one request; its own client would ask six times in half a
    minute.
    """
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:  # the library may use any HTTP client, each with its own errors
        return False
    return True
