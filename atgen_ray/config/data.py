"""Sections of the configuration for data: where examples come from and how they become prompts."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.schema import Fraction, Section

FILES = {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".pq", ".arrow"}

_MAGIC = re.compile(r"[*?\[]")


class DuplicatesConfig(Section):
    """Near-duplicates within the pool, by MinHash over word trigrams."""

    action: Literal["exclude", "mark", "off"] = Field(
        "exclude",
        description="exclude: never select a near-duplicate of an earlier row; mark: only note "
        "it; off",
    )
    threshold: Fraction = Field(
        0.9, description="Estimated Jaccard similarity from which two rows are duplicates"
    )


class DataConfig(Section):
    """Location of the examples, and the columns of input and answers."""

    pool: str = Field(
        description="File, folder, glob or URL of the pool, a Hugging Face dataset id, or "
        "package://PACKAGE/FILE"
    )
    test: str | None = Field(
        None, description="Test examples with answers, given like `pool`; null: no test split"
    )
    target: str | None = Field(
        None,
        description="Prompts of the use in mind, without answers, given like `pool`: a handful to "
        "thousands. Strategies with a target pick for them, and the report says how much of them "
        "the labels cover; null: no target",
    )
    labeled: str | None = Field(
        None,
        description="File, glob or URL of rows with answers that count as labels from the first "
        "round on, at no cost: with the pool's columns, or a labeled.jsonl; null: none",
    )
    format: Literal["auto", "jsonl", "csv", "parquet", "saved", "huggingface"] = Field(
        "auto",
        description="auto goes by the file names; saved is a folder made by datasets.save_to_disk",
    )
    path: str | None = Field(
        None,
        description="Folder that holds the dataset instead of what `pool`, `test` and `target` "
        "name: made "
        "by save_to_disk, or with files named by their splits (train.jsonl, test.csv, "
        "train-00000-of-00001.parquet)",
    )
    subset: str | None = Field(None, description="Configuration name of a Hugging Face dataset")
    revision: str | None = Field(
        None, description="Branch, tag or commit of a Hugging Face dataset"
    )
    pool_split: str = Field(
        "train",
        description="Split that is the pool (Hugging Face, saved and `path`); train[:500] takes "
        "500 rows",
    )
    test_split: str = Field(
        "test", description="Split that is the test set, given like `pool_split`"
    )
    target_split: str = Field(
        "train", description="Split that is the target, given like `pool_split`"
    )
    input: str = Field(
        "input", description="Column of the input; dots reach into nested columns: paper.abstract"
    )
    context: list[str] = Field(
        default_factory=list,
        description="Columns that people see beside the input when they label; the model reads "
        "them only where prompt.template names them",
    )
    references: str | list[str] | None = Field(
        None,
        description="Column or columns of the known answers; a list column gives several "
        "references",
    )
    test_references: str | list[str] | None = Field(
        None, description="Column or columns of the answers in the test set; null: as `references`"
    )
    labeled_references: str | list[str] | None = Field(
        None, description="Column or columns of the answers in `labeled`; null: as `references`"
    )
    reference_template: str | None = Field(
        None,
        description="Jinja template that makes the one reference of a row from all of its "
        "columns, as {{ 'ABCD'[answer] }}; null: the references as they are",
    )
    merge_repeats: bool = Field(
        False,
        description="Rows of the same text become one example with the references of all of them",
    )
    limit: PositiveInt | None = Field(
        None, description="Keep a seeded random subset of the pool of this size"
    )
    test_limit: PositiveInt | None = Field(
        None, description="Keep a seeded random subset of the test set"
    )
    seed: NonNegativeInt | None = Field(
        None,
        description="Seed of the two subsets; null: the run's. Runs that are compared should "
        "share it",
    )
    duplicates: DuplicatesConfig = Field(default_factory=DuplicatesConfig)

    @property
    def locations(self) -> dict[str, str | None]:
        """Return by key where the splits are."""
        return {
            "data.pool": self.pool,
            "data.test": self.test,
            "data.target": self.target,
            "data.labeled": self.labeled,
        }

    def narrow(self, key: str) -> "DataConfig":
        """Return how to read the location of `key`: that of data.labeled is a file of its own, of
        which `path`, `format` and what names a Hugging Face dataset say nothing.
        """
        if key != "data.labeled":
            return self
        alone = {"path": None, "format": "auto", "subset": None, "revision": None}
        return self.model_copy(update=alone)

    @model_validator(mode="after")
    def _hides_answers(self) -> "DataConfig":
        """Check that people do not see the known answers beside the input."""
        named = (self.references, self.test_references, self.labeled_references)
        answers = [
            path
            for paths in named
            if paths is not None
            for path in ([paths] if isinstance(paths, str) else paths)
        ]
        for path in self.context:
            if any(f"{path}.".startswith(f"{answer}.") for answer in answers) or any(
                f"{answer}.".startswith(f"{path}.") for answer in answers
            ):
                raise ValueError(
                    f"data.context names {path!r}, which holds the answers, expected other columns"
                )
        return self


class Shot(Section):
    """One solved example shown in every prompt."""

    input: str = Field(description="The example's input, put through the template")
    output: str = Field(description="The answer shown")


class PromptConfig(Section):
    """Turns of the prompt made of an example; the tokenizer's own chat template joins them."""

    system: str | None = Field(
        None, description="System turn; null leaves the chat template's own default"
    )
    template: str = Field(
        "{{ input }}",
        description="Jinja template of the user turn; sees `input` and the row's columns except "
        "the answers",
    )
    few_shot: list[Shot] = Field(
        default_factory=list, description="Solved examples shown before the question"
    )
    response_start: str = Field(
        "", description="Text that every answer starts with, given to the model"
    )
    overlong: Literal["truncate", "reject"] = Field(
        "truncate",
        description="Inputs over model.max_prompt_tokens: cut the input's end, or to the dead "
        "letters",
    )


def check_named_files(data: DataConfig) -> None:
    """Check that each plain file name in data.pool, data.test, data.target and data.labeled is that
    of an existing file.

    Raises:
        UserError: with a line for each that is not, and the nearest file beside it.
    """
    lines = []
    for key, location in data.locations.items():
        if (
            data.narrow(key).path is not None
            or location is None
            or Path(location).suffix not in FILES
            or "://" in location
        ):
            continue
        path = Path(location).expanduser()
        if _MAGIC.search(location) or path.exists() or not path.parent.is_dir():
            continue  # the reader explains other mistakes better
        beside = [each.name for each in path.parent.iterdir() if each.suffix in FILES]
        hint = nearest(path.name, beside) if beside else ""
        lines.append(f"{key} is {location[:200]!r}, expected an existing file{hint}")
    if lines:
        raise UserError("\n".join(lines))
