"""Who labels the query batch."""

from typing import Literal

from pydantic import Field, NonNegativeFloat

from atgen_ray.settings import Section


class DatasetAnnotatorConfig(Section):
    """Known answers from the dataset: for benchmarks."""

    type: Literal["dataset"] = Field("dataset", description="dataset: the answers in data.references")
    price_per_label: NonNegativeFloat = Field(0.0, description="Dollars counted for a label, to draw cost curves")
