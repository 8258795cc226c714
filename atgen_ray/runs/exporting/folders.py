"""Folders that an export writes: they appear whole, and never in the place of something else."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atgen_ray.core.checkpoints import ADAPTER_CONFIG
from atgen_ray.core.errors import UserError
from atgen_ray.core.locations import check_folder

CARD = "README.md"  # where a hub looks for a card


@contextmanager
def make_folder(output: Path) -> Iterator[Path]:
    """Yield a folder to fill; on a clean exit it becomes `output`.

    Raises:
        UserError: `output` is there already and not empty, or cannot be written.
    """
    check_folder(output)
    try:
        if output.exists() and not (output.is_dir() and next(output.iterdir(), None) is None):
            raise UserError(f"--output is '{output}', which is there, expected a new folder")
        parent = output.absolute().parent
        staged = Path(tempfile.mkdtemp(dir=parent, prefix=".atgen-export-"))
        try:
            yield staged
            staged.rename(output.absolute())
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"--output is '{output}', which cannot be written: {error.strerror or error}"
        ) from None


def copy_adapter(tuned: Path, folder: Path, base: str) -> None:
    """Copy the files of the adapter `tuned` to `folder`.

    Its configuration names the base model as `base`: training wrote where the base lay on the
    machine that trained. The card that peft wrote is left out.
    """
    for file in sorted(path for path in tuned.rglob("*") if path.is_file() and path.name != CARD):
        copy = folder / file.relative_to(tuned)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)  # without its mode: what is taken home is private too
    path = folder / ADAPTER_CONFIG
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = base
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def count_files(folder: Path) -> int:
    """Return the number of files in `folder` and below."""
    return sum(path.is_file() for path in folder.rglob("*"))
