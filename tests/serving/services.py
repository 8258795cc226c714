"""A service that runs, as tests see it."""

import socket
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
from projects import Project


@dataclass(frozen=True)
class Service:
    """Where the service is, who may come in, and what it serves."""

    url: str
    admin: str
    annotator: str
    encoder: str
    project: Project
    storage: Path

    def client(self, token: str | None = None) -> httpx.Client:
        """A client that shows the admin's token, or another."""
        return httpx.Client(base_url=self.url, headers=bearer(token or self.admin), timeout=120)

    def openai(self) -> openai.OpenAI:
        """The official client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.admin, max_retries=0, timeout=120)


def bearer(token: str) -> dict[str, str]:
    """The header that shows a token."""
    return {"Authorization": f"Bearer {token}"}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
