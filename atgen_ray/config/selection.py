"""Section of the configuration for selection: which examples are worth labelling."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, JsonValue, PositiveInt, model_validator

from atgen_ray.config.messages import check_values
from atgen_ray.core.errors import nearest
from atgen_ray.core.schema import Changeable, Section
from atgen_ray.selection import STRATEGIES, Need, find_needs
from atgen_ray.selection.registry import CHOSEN
from atgen_ray.selection.strategy import MODEL
from atgen_ray.text.conversation import Choice


class FirstBatchConfig(Section):
    """The first query batch, chosen with no labels at all."""

    strategy: str | None = Field(
        None, description="Strategy of the first batch; null: the run's own"
    )
    count: PositiveInt | None = Field(
        None, description="Size of the first batch; null: as later ones"
    )
    parameters: dict[str, JsonValue] = Field(
        default_factory=dict, description="Parameters of that strategy"
    )


class ShortlistConfig(Section):
    """The cheap mode: a strategy that needs no model chooses what the model then looks at."""

    count: PositiveInt = Field(description="Examples that the model looks at in a round")
    strategy: str = Field(
        "facility_location", description="Strategy that chooses them, by texts and embeddings alone"
    )
    parameters: dict[str, JsonValue] = Field(
        default_factory=dict, description="Parameters of that strategy"
    )


class SelectionConfig(Section):
    """Which examples are worth labelling."""

    strategy: str = Field(
        "huds",
        description="Query strategy; `atgen-ray config explain selection.strategy` lists them",
    )
    count: PositiveInt = Field(10, description="Examples picked a round")
    parameters: dict[str, JsonValue] = Field(
        default_factory=dict, description="Parameters of the strategy"
    )
    first: FirstBatchConfig = Field(default_factory=FirstBatchConfig)
    ids: str | list[str] | None = Field(
        None,
        description="Ids of the first batch, chosen elsewhere: a list, a file or URL with one a "
        "line, or a table with a column id; null: a strategy picks",
    )
    turns: Choice = Field(
        "last",
        description="What of a conversation is compared: the user's last turn, or the whole of it, "
        "without its system turn",
    )
    candidates: PositiveInt | None = Field(
        None,
        description="Score only a seeded random subset of the pool of this size; null: all of it",
    )
    shortlist: ShortlistConfig | None = Field(
        None,
        description="Let the model look at a shortlist only, where the strategy asks for its "
        "outputs; null: at all candidates",
    )
    workers: Changeable[PositiveInt | None] = Field(
        None,
        description="Ray workers that share the selection from over 20,000 candidates, one CPU "
        "each; null: all CPUs of the cluster. The picks are the same on any number of them",
    )

    @model_validator(mode="after")
    def _known_strategies(self) -> "SelectionConfig":
        _check_strategy("selection", self.strategy, self.parameters)
        if self.ids is not None:
            self._check_ids(self.ids)
        if self.first.strategy is not None:
            _check_strategy("selection.first", self.first.strategy, self.first.parameters)
        elif self.first.parameters:
            raise ValueError(
                "selection.first.parameters is given, expected selection.first.strategy beside it"
            )
        if self.shortlist is not None:
            self._check_shortlist(self.shortlist)
        return self

    def choose_strategy(self, round: int) -> tuple[str, dict[str, JsonValue]]:
        """Return name and parameters of the strategy of `round`; the first round may have its
        own.
        """
        if round <= 1 and self.first.strategy is not None:
            return self.first.strategy, self.first.parameters
        return self.strategy, self.parameters

    def reads_model(self, round: int) -> bool:
        """Return whether the strategy of `round` needs outputs or states of the target model."""
        return not self.is_chosen(round) and bool(find_needs(*self.choose_strategy(round)) & MODEL)

    def is_chosen(self, round: int) -> bool:
        """Return whether the batch of `round` was chosen elsewhere, so that no strategy picks."""
        return self.ids is not None and round <= 1

    def name_strategy(self, round: int) -> str:
        """Return what picked in `round`, for people."""
        return CHOSEN if self.is_chosen(round) else self.choose_strategy(round)[0]

    def _check_ids(self, ids: str | list[str]) -> None:
        """Raise ValueError where nothing is named, or a strategy of the first batch beside it."""
        if not ids:
            raise ValueError(f"selection.ids is {ids!r}, expected ids, or a file of them")
        for name in ("strategy", "count"):
            if getattr(self.first, name) is not None:
                raise ValueError(
                    f"selection.first.{name} is given beside selection.ids, which is the first "
                    f"batch: expected one of the two"
                )

    def _check_shortlist(self, shortlist: ShortlistConfig) -> None:
        """Raise ValueError unless the shortlist is cheap and long enough."""
        _check_strategy("selection.shortlist", shortlist.strategy, shortlist.parameters)
        costly = sorted(
            find_needs(shortlist.strategy, shortlist.parameters)
            & {"generations", "samples", "states"}
        )
        if costly:
            raise ValueError(
                f"selection.shortlist.strategy is {shortlist.strategy!r}, which needs the model's "
                f"{costly[0]}, "
                "expected one that needs none, as facility_location or kmeans"
            )
        if shortlist.count < self.count:
            raise ValueError(
                f"selection.shortlist.count is {shortlist.count}, expected at least "
                f"selection.count = {self.count}"
            )


def name_strategy(config: Mapping[str, Any], round: int) -> str | None:
    """Return the strategy of `round` in a stored configuration, which another version may have
    written; None where it names none.
    """
    selection = config.get("selection") or {}
    if round <= 1 and selection.get("ids"):
        return CHOSEN
    first = (selection.get("first") or {}).get("strategy") if round <= 1 else None
    name = first or selection.get("strategy")
    return None if name is None else str(name)


def _check_strategy(section: str, name: str, parameters: dict[str, JsonValue]) -> None:
    """Raise ValueError unless `name` is a strategy with these parameters."""
    if name not in STRATEGIES:
        raise ValueError(
            f"{section}.strategy is {name!r}, expected a known strategy{nearest(name, STRATEGIES)}"
        )
    check_values(parameters, STRATEGIES[name].parameters, f"{section}.parameters.")


def add_needs(needs: frozenset[Need], shortlist: ShortlistConfig | None) -> frozenset[Need]:
    """Return the `needs` of a strategy, with those of the shortlist if the strategy needs the
    model; otherwise no shortlist is made.
    """
    if shortlist and needs & MODEL:
        return needs | find_needs(shortlist.strategy, shortlist.parameters)
    return needs
