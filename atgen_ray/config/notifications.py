"""Sections of the configuration for notifications: who is told, of what, and how."""

import re
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, field_validator

from atgen_ray.core.schema import Section

# What a run tells its owner of, and when.
Occasion = Literal["finished", "budget", "failed", "paused", "stopped", "stalled"]
OCCASIONS: tuple[Occasion, ...] = ("finished", "budget", "failed", "paused", "stalled")


class EmailConfig(Section):
    """Notifications by e-mail. The password is read from the environment: ATGEN_SMTP_PASSWORD."""

    to: Annotated[list[str], Field(min_length=1)] = Field(description="Addresses of those told")
    sender: str = Field(description="Address that it comes from")
    host: str = Field(description="Name of the mail server")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(587, description="Port of the mail server")
    security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="How the connection is encrypted"
    )
    user: str | None = Field(
        None, description="Name to sign in with at the mail server; null: do not sign in"
    )

    @field_validator("to", "sender")
    @classmethod
    def _is_address(cls, value: list[str] | str) -> list[str] | str:
        for address in [value] if isinstance(value, str) else value:
            if (
                "@" not in address
                or not address.isprintable()
                or any(mark in address for mark in " ,;<>")
            ):
                raise ValueError(f"is {address[:80]!r}, expected an address as name@example.org")
        return value


class ChannelsConfig(Section):
    """Ways in which a notification goes out."""

    webhook: str | None = Field(
        None,
        description="URL that a JSON message is posted to, signed with ATGEN_WEBHOOK_SECRET where "
        "that is set; null: ATGEN_WEBHOOK_URL in the environment, where one with a secret in it "
        "belongs, or none",
    )
    webhook_format: Literal["auto", "json", "slack"] = Field(
        "auto",
        description="json: all fields; slack: the text alone, as Slack, Mattermost and Teams take "
        "it; auto: slack for hooks.slack.com, else json",
    )
    email: EmailConfig | None = Field(None, description="Who is told by e-mail; null: nobody")
    service: str | None = Field(
        None,
        description="Address of the service as people reach it, for links in the message",
    )

    @field_validator("webhook", "service")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"https?://[^\s/?#@\\]+(/[^\s\\]*)?", url):
            raise ValueError(f"is {url[:80]!r}, expected https://HOST/PATH")
        return url


class NoticeConfig(ChannelsConfig):
    """Notifications of annotators about new tasks."""


class NotifyConfig(ChannelsConfig):
    """Notifications of the run's owner: that it ended, or that nobody labels."""

    events: list[Occasion] = Field(
        default_factory=lambda: list(OCCASIONS),
        description="What is told: finished: the run reached its end; budget: it ended since the "
        "budget is spent; failed: an error; paused: it waits for something that you can cure; "
        "stopped: on request; stalled: no answer of people for stalled_hours",
    )
    stalled_hours: PositiveFloat = Field(
        24.0, description="Hours without an answer of people, after which the run is stalled"
    )

    @field_validator("events")
    @classmethod
    def _once(cls, events: list[Occasion]) -> list[Occasion]:
        return list(dict.fromkeys(events))
