"""Section of the service's configuration for what the tokens of its models cost, and who may use
how many.
"""

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from atgen_ray.core.schema import Section

EVERY = "all"  # in the place of a model's name


class TokenPriceConfig(Section):
    """Dollars for a million tokens of a model."""

    input: NonNegativeFloat = Field(0.0, description="Tokens that it reads")
    output: NonNegativeFloat = Field(0.0, description="Tokens that it writes")
    training: NonNegativeFloat = Field(
        0.0, description="Tokens that fine-tuning jobs train on, those of each epoch"
    )


class QuotaConfig(Section):
    """What a caller may use, by days and months of UTC; null: any number."""

    day_tokens: PositiveInt | None = Field(None, description="Tokens of models a day")
    month_tokens: PositiveInt | None = Field(None, description="Tokens of models a month")
    day_dollars: PositiveFloat | None = Field(None, description="Dollars a day, by prices")
    month_dollars: PositiveFloat | None = Field(None, description="Dollars a month, by prices")

    @property
    def is_set(self) -> bool:
        """Return whether there is any limit."""
        return any(value is not None for value in self.model_dump().values())


class UsageConfig(Section):
    """Prices and quotas of tokens."""

    prices: dict[str, TokenPriceConfig] = Field(
        default_factory=dict,
        description="Prices by the name of a model, of which its adapters have the same unless "
        "they are named too; `all` is for the others; none: nothing costs anything",
    )
    quota: QuotaConfig = Field(
        default_factory=QuotaConfig, description="Of each caller who is no admin"
    )
    quotas: dict[str, QuotaConfig] = Field(
        default_factory=dict, description="In its place, by the callers' names"
    )

    def find_price(self, model: str) -> TokenPriceConfig:
        """Return the price of a model, by its own name, its base's, or all."""
        parts = model.split(":")
        base = parts[1] if parts[0] == "ft" and len(parts) > 1 else parts[0]
        for name in (model, base, EVERY):
            if name in self.prices:
                return self.prices[name]
        return TokenPriceConfig()
