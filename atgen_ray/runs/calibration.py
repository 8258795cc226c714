"""Calibration of a run's annotators: which of its labels are compared with which labels of
people.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from atgen_ray.annotation.calibration import Opinion, calibrate, is_person, list_opinions
from atgen_ray.annotation.human.exchange.imported_labels import read_labels
from atgen_ray.annotation.router import is_drawn
from atgen_ray.config import RouterConfig, RunConfig
from atgen_ray.config.loading import parse_config
from atgen_ray.core.errors import UserError
from atgen_ray.core.records import Annotation
from atgen_ray.store.existing import open_runs
from atgen_ray.store.run_folder import RunFolder


def calibrate_run(
    name: str,
    storage: str,
    database_url: SecretStr | None,
    file: Path | None,
    quality: float,
    match: float,
) -> dict[str, Any]:
    """Return the calibration of each annotator of a run as `annotators`, and `sample`: which labels
    of people they were compared with, in words.

    Args:
        file: labels of people, as `atgen-ray runs import` reads them; None: those in the run.

    Raises:
        UserError: an unknown run, one without labels of people, or a share outside 0 to 1.
    """
    for option, value in (("--quality", quality), ("--match", match)):
        if not 0 < value <= 1:
            raise UserError(f"{option} is {value:g}, expected a share above 0 and up to 1")
    with open_runs(storage, database_url) as journal:
        tree = journal.run(name).config
        labels = [label for _, label in journal.annotations(name)]
    opinions = [opinion for label in labels for opinion in list_opinions(label)]
    if file is not None:
        people = _read_people(RunFolder(storage, name), file, opinions)
        sample = f"{len(people)} labels of {file.name}"
    else:
        people, sample = _choose_people(parse_config(tree, labels=False), labels)
    if not people:
        raise UserError(
            f"run '{name}' has no labels of people to compare with, expected --labels FILE, or a "
            f"router with people and annotator.when.share"
        )
    found = calibrate(opinions, people, quality, match)
    return {"sample": sample, "quality": quality, "annotators": [asdict(each) for each in found]}


def _read_people(folder: RunFolder, file: Path, opinions: list[Opinion]) -> dict[str, str]:
    """Return the labels in a file by example; those of examples without a label are left out."""
    ids = sorted({opinion.example_id for opinion in opinions})
    rows = folder.read_rows("pool.parquet", ids, ["id", "text"]) if ids else []
    by_input = {str(row["text"]): str(row["id"]) for row in rows}
    known = set(ids)
    found = dict[str, str]()
    for label in read_labels(file, f"--labels is '{file}'"):
        id_ = label.id if label.id is not None else by_input.get(label.input or "")
        if id_ is not None and id_ in known:
            found[id_] = label.text
    return found


def _choose_people(config: RunConfig, labels: list[Annotation]) -> tuple[dict[str, str], str]:
    """Return the labels of people in a run that say the most: those of a random share where there
    is one, else all; and what they are a sample of.
    """
    given = [label for label in labels if is_person(label.annotator)]
    key, share = "", 0.0
    if isinstance(config.annotator, RouterConfig):
        key, _, when = config.annotator.list_stages()[-1]
        share = when.share
    if share > 0:
        given = [label for label in given if is_drawn(config.seed, key, label, share)]
        sample = f"{len(given)} labels of people, a random share of {share:g}"
    else:
        sample = (
            f"{len(given)} labels of people, of examples that were passed on to them: the models "
            f"are better on the others, by how much is unknown (annotator.when.share, or --labels "
            f"FILE)"
        )
    return {label.id: label.text for label in given}, sample
