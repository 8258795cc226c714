"""Stand-ins for servers that speak OpenAI's chat completions, each in its own dialect: address, key,
which keys of a body it takes, how it refuses the others, and the shape of its answers. From their
documentation, with the sources beside them.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import urlsplit

from helpers.fakes.state import FENCE, label_of

COMMON = frozenset({"model", "messages", "temperature", "top_p", "response_format", "stop", "seed"})
KEY = "key-of-a-dialect"


@dataclass(frozen=True)
class Wire:
    """What a server takes and how it answers.

    `limits` are the names of the longest answer; a server that is not `strict` ignores other keys,
    as Ollama does. `refusal`: openai, mistral or gemini, the shape of an error.
    """

    path: str
    limits: frozenset[str]
    keys: frozenset[str] = frozenset()
    strict: bool = True
    refusal: str = "openai"
    header: str = "authorization"
    query: str = ""
    schema: bool = True
    thought: str | None = None  # the key of a message that holds the reasoning
    usage: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    open: bool = False  # takes any key


MAX = frozenset({"max_tokens"})
NEW = frozenset({"max_completion_tokens"})
WIRES = {
    # https://platform.openai.com/docs/api-reference/chat
    "OpenAI": Wire(
        "/v1/chat/completions",
        NEW,
        frozenset({"reasoning_effort", "store", "metadata"}),
        usage={"prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1}},
    ),
    # https://learn.microsoft.com/azure/foundry/openai/api-version-lifecycle
    "Azure OpenAI": Wire("/openai/v1/chat/completions", NEW, frozenset({"reasoning_effort"})),
    "Azure OpenAI with an api-version": Wire(
        "/openai/deployments/labels/chat/completions",
        NEW | MAX,
        header="api-key",
        query="api-version=2024-10-21",
        extra={"prompt_filter_results": []},
    ),
    # https://openrouter.ai/docs/use-cases/reasoning-tokens
    "OpenRouter": Wire(
        "/api/v1/chat/completions",
        MAX | NEW,
        frozenset({"reasoning", "provider", "usage"}),
        thought="reasoning",
        usage={"cost": 0.0},
        extra={"provider": "DeepSeek"},
    ),
    # https://api-docs.deepseek.com/guides/thinking_mode
    "DeepSeek": Wire(
        "/chat/completions",
        MAX,
        frozenset({"thinking", "reasoning_effort"}),
        schema=False,
        thought="reasoning_content",
        usage={"prompt_cache_hit_tokens": 3, "prompt_cache_miss_tokens": 1},
    ),
    # https://docs.mistral.ai/api
    "Mistral": Wire(
        "/v1/chat/completions", MAX, frozenset({"reasoning_effort"}), refusal="mistral"
    ),
    # https://ai.google.dev/gemini-api/docs/openai
    "Gemini": Wire(
        "/v1beta/openai/chat/completions",
        MAX | NEW,
        frozenset({"reasoning_effort", "extra_body"}),
        refusal="gemini",
    ),
    # https://docs.litellm.ai/docs/proxy/user_keys
    "LiteLLM": Wire(
        "/v1/chat/completions", NEW, frozenset({"reasoning_effort", "thinking"}), open=True
    ),
    # https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
    "vLLM": Wire(
        "/v1/chat/completions",
        MAX | NEW,
        frozenset({"chat_template_kwargs", "reasoning_effort"}),
        thought="reasoning",
        usage={"prompt_tokens_details": None},
        open=True,
    ),
    # https://docs.ollama.com/api/openai-compatibility
    "Ollama": Wire(
        "/v1/chat/completions",
        MAX,
        frozenset({"reasoning_effort", "reasoning"}),
        strict=False,
        thought="reasoning",
        open=True,
    ),
    # https://lmstudio.ai/docs/developer/openai-compat
    "LM Studio": Wire(
        "/v1/chat/completions",
        MAX,
        strict=False,
        thought="reasoning_content",
        extra={"stats": {}},
        open=True,
    ),
}


@dataclass
class FakeDialect:
    """A running stand-in: the address in place of the server's host, and the bodies that it got."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Answers one request as the wire says."""

    protocol_version = "HTTP/1.1"
    wire: ClassVar[Wire]
    fake: ClassVar[FakeDialect]

    def do_POST(self) -> None:
        wire = self.wire
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        parts = urlsplit(self.path)
        self.fake.bodies.append(body)
        self.fake.headers.append({name.lower(): value for name, value in self.headers.items()})
        if (parts.path, parts.query) != (wire.path, wire.query):
            self.refuse(404, f"no such path: {self.path}")
        elif not wire.open and KEY not in (self.headers.get(wire.header) or ""):
            self.refuse(401, "the key is wrong")
        elif fault := find_fault(wire, body):
            self.refuse(422 if wire.refusal == "mistral" else 400, fault)
        else:
            self.reply(200, complete(wire, body))

    def refuse(self, status: int, message: str) -> None:
        self.fake.refused.append(message)
        error: Any = {"message": message, "type": "invalid_request_error", "code": None}
        if self.wire.refusal == "mistral":
            self.reply(
                status, {"object": "error", **error, "message": {"detail": [{"msg": message}]}}
            )
        elif self.wire.refusal == "gemini":  # a list around the object
            self.reply(
                status, [{"error": {"code": status, "message": message, "status": "INVALID"}}]
            )
        else:
            self.reply(status, {"error": error})

    def reply(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None: ...


def find_fault(wire: Wire, body: dict[str, Any]) -> str | None:
    """Why the server refuses the body."""
    unknown = body.keys() - COMMON - wire.limits - wire.keys
    if wire.strict and unknown:
        return f"unknown parameters: {', '.join(sorted(unknown))}"
    if not body.keys() & wire.limits:
        return "an answer without a limit"
    reasons = body["model"].rpartition("/")[2].startswith(("gpt-5", "o3", "o4"))
    if reasons and body.get("temperature", 1) != 1 and body.get("reasoning_effort") != "none":
        return "Unsupported value: 'temperature' does not support 0 with this model"
    kind = (body.get("response_format") or {}).get("type", "text")
    if kind == "json_schema" and not wire.schema:
        return "This response_format type is unavailable now"
    return None


def complete(wire: Wire, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to a body that was taken."""
    found = FENCE.findall(body["messages"][-1]["content"])
    text = label_of(found[-1][1])
    message = {"role": "assistant", "content": text}
    if wire.thought:
        message |= {wire.thought: "let me see"}
    usage = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage | wire.usage,
        **wire.extra,
    }


@contextmanager
def run_dialect(name: str) -> Iterator[FakeDialect]:
    """A stand-in for the server called `name`, for as long as the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {}))
    server.daemon_threads = True
    fake = FakeDialect(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass.wire = WIRES[name]  # type: ignore[attr-defined]
    server.RequestHandlerClass.fake = fake  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
