"""The annotator `shout`: the last words of the input in capitals."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from atgen_ray.annotation import AnnotationContext, Annotator, AnnotatorPlugin, FunctionAnnotator
from atgen_ray.config import PluginAnnotatorConfig


class ShoutParameters(BaseModel):
    """How much is shouted."""

    model_config = ConfigDict(extra="forbid")

    words: PositiveInt = Field(1, description="Words of the label")


def build(config: PluginAnnotatorConfig, context: AnnotationContext, key: str) -> Annotator:
    """The annotator of one round."""
    parameters = ShoutParameters.model_validate(config.parameters)

    def label(texts: Sequence[str]) -> list[str]:
        return [" ".join(text.split()[-parameters.words :]).upper() for text in texts]

    return FunctionAnnotator(config, context, label)


def find_fault(text: str, label: str) -> str | None:
    """A check: labels must be short."""
    return None if len(label) < 100 else "it is not short"


SHOUT = AnnotatorPlugin(ShoutParameters, build)
