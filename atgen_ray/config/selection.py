"""Which examples are worth labelling."""

from pydantic import Field, JsonValue, PositiveInt, model_validator

from atgen_ray.errors import nearest
from atgen_ray.mistakes import check_values
from atgen_ray.settings import Section


class FirstBatchConfig(Section):
    """The first query batch, chosen with no labels at all."""

    strategy: str | None = Field(None, description="Strategy of the first batch; null: the run's own")
    count: PositiveInt | None = Field(None, description="Size of the first batch; null: as later ones")
    parameters: dict[str, JsonValue] = Field(default_factory=dict, description="Parameters of that strategy")


class SelectionConfig(Section):
    """Which examples are worth labelling."""

    strategy: str = Field("huds", description="Query strategy; `atgen-ray config explain` lists all of them")
    count: PositiveInt = Field(10, description="Examples picked a round")
    parameters: dict[str, JsonValue] = Field(default_factory=dict, description="Parameters of the strategy")
    first: FirstBatchConfig = Field(default_factory=FirstBatchConfig)
    candidates: PositiveInt | None = Field(
        None, description="Score only a seeded random subset of the pool of this size; null: all of it"
    )
    workers: PositiveInt | None = Field(
        None,
        description="Ray workers that share the selection from over 20,000 candidates, one CPU each; null: all CPUs of "
        "the cluster. The picks are the same on any number of them",
    )

    @model_validator(mode="after")
    def _known_strategies(self) -> "SelectionConfig":
        _check_strategy("selection", self.strategy, self.parameters)
        if self.first.strategy is not None:
            _check_strategy("selection.first", self.first.strategy, self.first.parameters)
        elif self.first.parameters:
            raise ValueError("selection.first.parameters is given, expected selection.first.strategy beside it")
        return self


def _check_strategy(section: str, name: str, parameters: dict[str, JsonValue]) -> None:
    from atgen_ray.selection import STRATEGIES

    if name not in STRATEGIES:
        raise ValueError(f"{section}.strategy is {name!r}, expected a known strategy{nearest(name, STRATEGIES)}")
    check_values(parameters, STRATEGIES[name].parameters, f"{section}.parameters.")
