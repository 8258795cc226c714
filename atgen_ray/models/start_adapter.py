"""Adapters that exist before a run: where they are, and whether its training goes on from them."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from atgen_ray.config import RunConfig
from atgen_ray.core.checkpoints import (
    ADAPTER_CONFIG,
    find_remote,
    first_line,
    is_adapter,
    resolve_checkpoint,
)
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.stored import Stored, at_path
from atgen_ray.store.journal import Journal
from atgen_ray.store.layout import round_folder
from atgen_ray.store.run_folder import RunFolder


def find_adapter(
    model: str, said: str, config: RunConfig, journal: Journal, also: Collection[str] = ()
) -> Stored:
    """Return the adapter that `model` names: of a run, RUN or RUN:ROUND, or a folder or its URL.

    Args:
        said: how messages begin: the key with its value.
        also: other names that the key takes.

    Raises:
        UserError: there is no such run, folder or URL, or it has no such adapter.
    """
    if "://" in model and (remote := find_remote(model, said.partition(" ")[0])) is not None:
        return remote
    name, round = split_name(model)
    if journal.find_run(name) is not None:
        base = journal.run(name).config["model"]["id"]
        if base != config.model.id:
            raise UserError(f"{said}, whose model.id is '{base}', expected '{config.model.id}'")
        trained = [at or 0 for at, step in journal.committed_steps(name) if step == "training"]
        at = max(trained, default=0) if round is None else round
        if at not in trained:
            rounds = ", ".join(map(str, sorted(trained))) or "none yet"
            raise UserError(f"{said}, expected a trained round of run '{name}' ({rounds})")
        return RunFolder(config.storage, name).refer(f"{round_folder(at)}/adapter")
    path = Path(model).expanduser()
    if is_adapter(path):
        return at_path(path.absolute())
    known = [*also, *(record.name for record in journal.runs())]
    kinds = ["a run", "RUN:ROUND", *(f"'{each}'" for each in also)]
    raise UserError(
        f"{said}, expected {', '.join(kinds)} or the folder of an adapter{nearest(name, known)}"
    )


def split_name(model: str) -> tuple[str, int | None]:
    """Return the name of RUN or RUN:ROUND, and the round where it is given."""
    name, _, round = model.partition(":")
    return name, int(round) if round.isdigit() else None


def find_adapter_mistakes(folder: Path, said: str, config: RunConfig) -> Iterator[str]:
    """Yield a line for each setting of `training` that the adapter in `folder` contradicts, since
    its further training keeps what it has, and one for another base model.
    """
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        kind = settings.get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        yield f"{said}, whose {ADAPTER_CONFIG} cannot be read: {first_line(error)}"
        return
    if kind != "LORA":
        yield f"{said}, which is of the type {str(kind)[:80]!r}, expected a LoRA adapter"
        return
    yield from _find_other_base(settings, said, config)
    training = config.training
    method = _name_method(settings)
    if method != ("lora" if training.method == "qlora" else training.method):
        yield (
            f"training.method is '{training.method}', but {said}, which was trained by "
            f"'{method}': expected training.method={method}"
        )
    for key, name in (("rank", "r"), ("alpha", "lora_alpha")):
        expected = getattr(training, key)
        if settings.get(name) != expected:
            yield (
                f"training.{key} is {expected}, but {said}, which has {settings.get(name)!r}: "
                f"expected training.{key}={settings.get(name)}"
            )
    for pattern in ("rank_pattern", "alpha_pattern"):
        if settings.get(pattern):
            yield f"{said}, whose {pattern} differs by module, expected one rank and alpha"
    wanted = training.target_modules
    has = settings.get("target_modules")
    if isinstance(wanted, list) and (not isinstance(has, list) or set(has) != set(wanted)):
        named = ", ".join(sorted(map(str, has))) if isinstance(has, list) else repr(has)
        yield (
            f"training.target_modules is {', '.join(wanted)}, but {said}, which adapts {named}: "
            f"expected these"
        )


def _name_method(settings: dict[str, Any]) -> str:
    if settings.get("use_dora"):
        return "dora"
    return "rslora" if settings.get("use_rslora") else "lora"


def _find_other_base(settings: dict[str, Any], said: str, config: RunConfig) -> Iterator[str]:
    """Yield a line where the adapter names another base model. A folder may have been moved, so
    that of two paths only the last names are compared.
    """
    base = str(settings.get("base_model_name_or_path") or "")
    if not base or base == config.model.id:
        return
    own = str(resolve_checkpoint(config.model.id, weights=False))
    moved = Path(base).is_absolute() or Path(own).is_absolute()
    if base == own or (moved and Path(base).name == Path(own).name):
        return
    yield f"{said}, whose base model is '{base[:200]}', expected '{config.model.id}' (model.id)"
