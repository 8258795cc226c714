"""Section of the service's configuration for fine-tuning jobs that ask for their labels."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from atgen_ray.config.annotation import AnnotatorConfig, list_annotators
from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.core.schema import Section


class ActiveJobsConfig(Section):
    """Who labels for fine-tuning jobs of the method `active`, and how much a job may ask for."""

    annotators: dict[str, Annotated[AnnotatorConfig, Field(discriminator="type")]] = Field(
        default_factory=dict,
        description="Annotators by the names that callers use, each with the keys of a run's "
        "annotator; none: no job of that method",
    )
    labels: PositiveInt = Field(1_000, description="Labels that a job may ask for")
    dollars: PositiveFloat | None = Field(
        None, description="Dollars that the labels of a job may cost; null: any number"
    )

    @field_validator("annotators")
    @classmethod
    def _can_label(cls, annotators: dict[str, AnnotatorConfig]) -> dict[str, AnnotatorConfig]:
        for name, annotator in annotators.items():
            if not NAME_PATTERN.fullmatch(name):
                raise ValueError(f"holds the name {name[:80]!r}, expected a-z, 0-9 and -")
            if any(each.type == "dataset" for _, each in list_annotators(annotator)):
                raise ValueError(
                    f"{name} has the type dataset, expected people or a model: the files of these "
                    f"jobs hold no answers"
                )
        return annotators
