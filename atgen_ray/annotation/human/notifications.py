"""Notifications to people about new tasks, by webhook and e-mail. Redirects are not followed."""

import smtplib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from atgen_ray.config import EmailConfig, NoticeConfig
from atgen_ray.core.credentials import read_key
from atgen_ray.core.machine import machine
from atgen_ray.core.strict_json import encode_json

# Names of environment variables.
WEBHOOK = "ATGEN_WEBHOOK_URL"
PASSWORD = "ATGEN_SMTP_PASSWORD"  # noqa: S105  # nosec B105 - the name of a variable
TIMEOUT = 10.0
TRIES = 3


@dataclass(frozen=True)
class Notification:
    """New tasks of a run: how many, in which round, and the page to label them on."""

    run: str
    round: int
    tasks: int
    page: str | None

    @property
    def text(self) -> str:
        """Return the notification as one line."""
        return (
            f"Run {self.run}, round {self.round}: {self.tasks} new "
            f"tasks{f' at {self.page}' if self.page else ''}"
        )


def send_notification(config: NoticeConfig, notification: Notification) -> list[str]:
    """Send `notification` by every configured channel; return one line per channel with its
    outcome, without secrets.
    """
    secret = read_key(WEBHOOK, None, WEBHOOK)
    webhook = config.webhook or (secret.get_secret_value() if secret else None)
    outcomes = []
    if webhook is not None:
        outcomes.append(_try("webhook", lambda: post_webhook(webhook, notification)))
    if (email := config.email) is not None:
        outcomes.append(_try("e-mail", lambda: send_email(email, notification)))
    return outcomes


def post_webhook(url: str, notification: Notification) -> None:
    """Post the notification as JSON. Raise OSError or HTTPException where it is not accepted."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
    try:
        path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        body = encode_json({**asdict(notification), "text": notification.text}).encode()
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        status = connection.getresponse().status
    finally:
        connection.close()
    if not 200 <= status < 300:
        raise OSError(f"it answered with status {status}")


def send_email(config: EmailConfig, notification: Notification) -> None:
    """Send the notification by SMTP. Raise OSError (which SMTPException is) where the server does
    not accept it.
    """
    message = EmailMessage()
    message["Subject"] = notification.text[:200]
    message["From"] = config.sender
    message["To"] = ", ".join(config.to)
    message.set_content(notification.text + "\n")
    kind = smtplib.SMTP_SSL if config.security == "tls" else smtplib.SMTP
    with kind(config.host, config.port, timeout=TIMEOUT) as server:
        if config.security == "starttls":
            import ssl

            server.starttls(context=ssl.create_default_context())
        if config.user is not None:
            password = read_key(PASSWORD, None, PASSWORD)
            server.login(config.user, password.get_secret_value() if password else "")
        server.send_message(message)


def _try(way: str, send: Callable[[], None]) -> str:
    """Try a channel several times and return its outcome for the journal: a failed notification
    must not stop a run.
    """
    for again in range(TRIES):
        try:
            send()
        except (OSError, HTTPException, ValueError) as error:
            reason = type(error).__name__ if not isinstance(error, OSError) else str(error)
        else:
            return f"{way} sent"
        if again + 1 < TRIES:
            machine().sleep(2**again)
    return f"{way} failed: {reason[:200]}"
