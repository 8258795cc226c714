"""Notices over a real socket: a webhook and a mail server that note what they are sent, or refuse
it.
"""

import base64
from typing import Any

import pytest
from helpers.hooks import Heard, Hook, Mail, listen
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from atgen_ray.config import NoticeConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.machine import Machine
from atgen_ray.notifications import Ending, NewTasks, channels, check_secret, send_message

NOTICE = NewTasks("sonnets", 2, 40, "https://label.example.org/annotate/sonnets")


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "sleep", lambda machine, seconds: None)
    monkeypatch.delenv(channels.WEBHOOK, raising=False)
    monkeypatch.delenv(channels.SECRET, raising=False)


def test_a_webhook_is_told() -> None:
    with listen(Hook) as (port, heard):
        told = send_message(NoticeConfig(webhook=f"http://127.0.0.1:{port}/hook?room=1"), NOTICE)
    assert told == ["webhook sent"]
    ((path, body),) = heard
    assert path == "/hook?room=1"
    assert (body["run"], body["round"], body["tasks"], body["page"]) == (
        "sonnets",
        2,
        40,
        NOTICE.page,
    )
    assert "40 new tasks" in body["text"]


def test_a_webhook_with_a_secret_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with listen(Hook) as (port, heard):
        monkeypatch.setenv(channels.WEBHOOK, f"http://127.0.0.1:{port}/gone")
        told = send_message(NoticeConfig(), NOTICE)
    assert told == ["webhook failed: it answered with status 500"]
    assert len(heard) == channels.TRIES


def test_a_redirect_is_not_followed_and_a_dead_host_stops_nobody() -> None:
    with listen(Hook) as (port, heard):
        told = send_message(NoticeConfig(webhook=f"http://127.0.0.1:{port}/moved"), NOTICE)
    assert told == ["webhook failed: it answered with status 302"]
    assert {path for path, _ in heard} == {"/moved"}
    (fate,) = send_message(NoticeConfig(webhook=f"http://127.0.0.1:{port}/hook"), NOTICE)
    assert fate.startswith("webhook failed")


def test_slack_gets_the_text_alone() -> None:
    ending = Ending("sonnets", "failed", "the disk is full", 40, 1.5, None)
    with listen(Hook) as (port, heard):
        send_message(
            NoticeConfig(webhook=f"http://127.0.0.1:{port}/hook", webhook_format="slack"), ending
        )
    ((_, body),) = heard
    assert body == {"text": "Run sonnets failed: the disk is full (40 labels, 1.50 dollars)"}


def test_a_signed_message_is_verified_by_the_standard_s_own_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = "whsec_" + base64.b64encode(b"k" * 32).decode()
    monkeypatch.setenv(channels.SECRET, secret)
    with listen(Hook) as (port, heard):
        send_message(NoticeConfig(webhook=f"http://127.0.0.1:{port}/hook"), NOTICE)
        body, headers = Heard.server.raw
    found = Webhook(secret).verify(body, headers)
    assert found == heard[0][1]
    assert found["type"] == "tasks.new"
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body.replace("40", "41"), headers)


@pytest.mark.parametrize("secret", ["whsec_c2hvcnQ=", "whsec_%%%", "a" * 40])
def test_a_secret_that_is_none_is_named_and_sends_nothing(
    monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv(channels.SECRET, secret)
    with pytest.raises(UserError, match=r"^ATGEN_WEBHOOK_SECRET is no secret, expected whsec_"):
        check_secret()
    with listen(Hook) as (port, heard):
        (told,) = send_message(NoticeConfig(webhook=f"http://127.0.0.1:{port}/hook"), NOTICE)
    assert told.startswith("webhook failed: ATGEN_WEBHOOK_SECRET")
    assert secret not in told
    assert heard == []


def test_people_get_an_e_mail() -> None:
    with listen(Mail) as (port, heard):
        email: dict[str, Any] = {
            "to": ["ann@example.org", "bea@example.org"],
            "sender": "runs@example.org",
        }
        email |= {"host": "127.0.0.1", "port": port, "security": "none"}
        assert send_message(NoticeConfig.model_validate({"email": email}), NOTICE) == [
            "e-mail sent"
        ]
    (message,) = heard
    assert "To: ann@example.org, bea@example.org" in message
    assert "40 new tasks at https://label.example.org/annotate/sonnets" in message.replace(
        "\r\n ", " "
    )
