"""Section of the configuration for embeddings: the space in which strategies measure similarity."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from atgen_ray.core.schema import Changeable, Section

LAST_LAYER = -1
_OF_MODEL = ("layer", "position", "render")  # settings that have no effect on the encoder


class EmbeddingConfig(Section):
    """The vectors behind diversity and likeness to a target, computed once for each text."""

    source: Literal["encoder", "model"] = Field(
        "encoder",
        description="encoder: a sentence encoder, which groups texts by what they are about; "
        "model: hidden states of the untuned target model, which group prompts by what is asked",
    )
    model: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2", description="Encoder, given like model.id"
    )
    workers: Changeable[PositiveInt] = Field(1, description="Replicas of the encoder or the model")
    gpus_per_worker: Changeable[NonNegativeFloat] = Field(
        1.0, description="GPUs of a replica, where the cluster has them"
    )
    batch_size: Changeable[PositiveInt] = Field(64, description="Texts in one batch")
    max_tokens: PositiveInt = Field(
        256,
        description="encoder: texts are cut to this many tokens; the model takes up to "
        "model.max_prompt_tokens",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="encoder: bfloat16 is faster on recent CPUs; the model has its own"
    )
    layer: float = Field(
        0.5,
        description="model: layer whose states are the vectors. Below 1: share of all layers; "
        "from 1: number of the layer; -1: the last. What comes after it is not computed",
    )
    position: Literal["last", "mean", "weighted"] = Field(
        "last",
        description="model: states that make a vector. last: at the prompt's last token, where "
        "the model is about to answer; mean: of all tokens; weighted: later tokens count more",
    )
    render: Literal["prompt", "plain"] = Field(
        "prompt",
        description="model: what it reads. prompt: all that it is given in a run, with chat "
        "template, system turn and solved examples; plain: the text of the example alone",
    )
    whiten: Literal["auto", "off", "center"] | Annotated[int, Field(ge=2)] = Field(
        "auto",
        description="off: vectors as they are; center: less the mean of the pool; a number: that "
        "many principal components, scaled to the same variance; auto: center for the model's "
        "states, off for the encoder",
    )

    @property
    def whitening(self) -> Literal["off", "center"] | int:
        """Return `whiten` with auto decided."""
        if self.whiten != "auto":
            return self.whiten
        return "center" if self.source == "model" else "off"

    @field_validator("layer")
    @classmethod
    def _names_a_layer(cls, layer: float) -> float:
        if layer == LAST_LAYER or 0 < layer < 1 or (layer >= 1 and layer.is_integer()):
            return layer
        raise ValueError(
            f"is {layer:g}, expected a share between 0 and 1, a whole number from 1, or -1"
        )

    @model_validator(mode="after")
    def _settings_of_the_source(self) -> Self:
        """Refuse settings of the model's states beside the encoder: who gives them wants states.
        Those of the encoder may stay, as presets name one.
        """
        for name in _OF_MODEL if self.source == "encoder" else ():
            value = getattr(self, name)
            # The default is what a stored configuration has.
            if value != type(self).model_fields[name].default:
                raise ValueError(
                    f"embedding.{name} is {value!r}, which the encoder has not, expected "
                    f"embedding.source=model beside it"
                )
        return self
