"""Channels of notifications: a webhook and e-mail. Redirects are not followed.

A webhook's message is signed as Standard Webhooks 1.0 has it: an HMAC of SHA-256 over its id, its
time and its body, with the key of ATGEN_WEBHOOK_SECRET, in the header `webhook-signature`.
"""

import base64
import binascii
import hashlib
import hmac
import smtplib
import uuid
from collections.abc import Callable
from dataclasses import asdict
from email.message import EmailMessage
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, ClassVar, Protocol
from urllib.parse import urlsplit

from atgen_ray.config import ChannelsConfig, EmailConfig
from atgen_ray.core.credentials import read_key
from atgen_ray.core.errors import UserError
from atgen_ray.core.machine import machine
from atgen_ray.core.strict_json import encode_json

# Names of environment variables.
WEBHOOK = "ATGEN_WEBHOOK_URL"
SECRET = "ATGEN_WEBHOOK_SECRET"  # noqa: S105  # nosec B105 - the name of a variable
PASSWORD = "ATGEN_SMTP_PASSWORD"  # noqa: S105  # nosec B105 - the name of a variable
PREFIX = "whsec_"  # of a secret, before its base64
SHORTEST = 24  # bytes of a secret
TIMEOUT = 10.0  # seconds
TRIES = 3
SLACK = "hooks.slack.com"


class Message(Protocol):
    """A dataclass with the fields of a notification."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def type(self) -> str:
        """Name of the event, as `run.finished`."""

    @property
    def text(self) -> str:
        """The notification as one line."""


def send_message(config: ChannelsConfig, message: Message) -> list[str]:
    """Send `message` by every configured channel; return one line per channel with its outcome,
    without secrets.
    """
    secret = read_key(WEBHOOK, None, WEBHOOK)
    webhook = config.webhook or (secret.get_secret_value() if secret else None)
    outcomes = []
    if webhook is not None:
        plain = config.webhook_format == "slack" or (
            config.webhook_format == "auto" and urlsplit(webhook).hostname == SLACK
        )
        fields = {"text": message.text}
        if not plain:
            fields |= {"type": message.type, **asdict(message)}
        sent = uuid.uuid4().hex  # the same for every try, so a receiver can drop the second
        outcomes.append(_try("webhook", lambda: post_webhook(webhook, fields, sent)))
    if (email := config.email) is not None:
        outcomes.append(_try("e-mail", lambda: send_email(email, message.text)))
    return outcomes


def post_webhook(url: str, fields: dict[str, Any], id: str) -> None:
    """Post `fields` as JSON. Raise OSError or HTTPException where it is not accepted."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    body = encode_json(fields).encode()
    headers = {"Content-Type": "application/json"} | _sign(id, body)
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
    try:
        path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        connection.request("POST", path, body, headers)
        status = connection.getresponse().status
    finally:
        connection.close()
    if not 200 <= status < 300:
        raise OSError(f"it answered with status {status}")


def send_email(config: EmailConfig, text: str) -> None:
    """Send `text` by SMTP. Raise OSError (which SMTPException is) where the server does not accept
    it.
    """
    message = EmailMessage()
    message["Subject"] = " ".join(text.split())[:200]
    message["From"] = config.sender
    message["To"] = ", ".join(config.to)
    message.set_content(text + "\n")
    kind = smtplib.SMTP_SSL if config.security == "tls" else smtplib.SMTP
    with kind(config.host, config.port, timeout=TIMEOUT) as server:
        if config.security == "starttls":
            import ssl

            server.starttls(context=ssl.create_default_context())
        if config.user is not None:
            password = read_key(PASSWORD, None, PASSWORD)
            server.login(config.user, password.get_secret_value() if password else "")
        server.send_message(message)


def check_secret() -> bytes | None:
    """Return the key that webhooks are signed with, or None where none is set.

    Raises:
        UserError: ATGEN_WEBHOOK_SECRET is no secret of Standard Webhooks.
    """
    secret = read_key(SECRET, None, SECRET)
    if secret is None:
        return None
    text = secret.get_secret_value()
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if not text.startswith(PREFIX) or len(key) < SHORTEST:
        raise UserError(
            f"{SECRET} is no secret, expected {PREFIX} and base64 of at least {SHORTEST} bytes, as "
            f'of: echo "{PREFIX}$(openssl rand -base64 32)"'
        )
    return key


def _sign(id: str, body: bytes) -> dict[str, str]:
    """Return the headers that tell a message's id, its time in seconds, and its signature."""
    sent = str(int(machine().time()))
    headers = {"webhook-id": id, "webhook-timestamp": sent}
    if (key := check_secret()) is not None:
        signed = b".".join((id.encode(), sent.encode(), body))
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def _try(way: str, send: Callable[[], None]) -> str:
    """Try a channel several times and return its outcome for the journal: a failed notification
    must not stop a run.
    """
    for again in range(TRIES):
        try:
            send()
        except UserError as error:
            return f"{way} failed: {error}"
        except (OSError, HTTPException, ValueError) as error:
            reason = type(error).__name__ if not isinstance(error, OSError) else str(error)
        else:
            return f"{way} sent"
        if again + 1 < TRIES:
            machine().sleep(2**again)
    return f"{way} failed: {reason[:200]}"
