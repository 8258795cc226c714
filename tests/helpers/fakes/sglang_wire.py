"""Stand-in for SGLang's server: `python sglang_wire.py FOLDER` takes its arguments as the launcher
does and serves SGLang's native API until its standard input closes.

It does what the real server cannot be made to do in a test: die in mid-request, hang, answer with
other weights, refuse to start. FOLDER/rules.json has a list of rules; each start takes one:

    {"die": 1}      end at the first request for tokens
    {"hang": 1}     never answer the first one
    {"version": ""} answer as if these weights were held
    {"start": 3}    end with this status before anything is answered

FOLDER/log.jsonl has a line for each start, and for each request other than /health. Its answers have
the shape of the real server's, which tests/engines/test_sglang_engine.py compares.
"""

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Fake:
    """What a server holds, and its rule."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.folder = folder
        self.port = int(arguments[arguments.index("--port") + 1])
        self.key = arguments[arguments.index("--api-key") + 1]
        self.version = arguments[arguments.index("--weight-version") + 1]
        self.adapters: dict[str, str] | None = {} if "--enable-lora" in arguments else None
        self.asked = 0
        rules = folder / "rules.json"
        left = json.loads(rules.read_text()) if rules.exists() else []
        self.rule: dict[str, Any] = left.pop(0) if left else {}
        rules.write_text(json.dumps(left))
        self.log({"start": arguments, "pid": os.getpid()})

    def log(self, entry: dict[str, Any]) -> None:
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """The status and the body of an answer."""
        if path == "/model_info":
            return 200, {
                "model_path": "fake",
                "is_generation": True,
                "weight_version": self.version,
            }
        if path == "/generate":
            return self.generate(body)
        if path == "/load_lora_adapter":
            assert self.adapters is not None
            if not Path(body["lora_path"]).is_dir():
                refused = {"success": False, "error_message": "no such folder"}
                return 400, refused | {"loaded_adapters": self.adapters}
            self.adapters[body["lora_name"]] = body["lora_path"]
            loaded = {"success": True, "error_message": "", "loaded_adapters": self.adapters}
            return 200, loaded
        if path == "/update_weights_from_disk":
            self.version = body["weight_version"]
            return 200, {"success": True, "message": "done", "num_paused_requests": 0}
        if path in ("/release_memory_occupation", "/resume_memory_occupation"):
            return 200, None
        return 404, {"detail": "Not Found"}

    def generate(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.asked += 1
        if self.rule.get("die") == self.asked:
            print("the fake dies now", flush=True)
            os._exit(9)
        if self.rule.get("hang") == self.asked:
            time.sleep(3600)
        for name in body.get("lora_path", []):
            if self.adapters is None:
                return 400, {"error": {"message": f"LoRA adapter '{name}' was requested"}}
            if name is not None and name not in self.adapters:
                message = f"Got LoRA adapter that has never been loaded: {name}"
                return 400, {"error": {"message": message}}
        rows = zip(body["input_ids"], body["sampling_params"], strict=True)
        return 200, [self.row(ids, sampling, body["top_logprobs_num"]) for ids, sampling in rows]

    def row(self, ids: list[int], sampling: dict[str, Any], top: int) -> dict[str, Any]:
        """The last token of the prompt again and again, ever less likely."""
        tokens = [ids[-1]] * sampling["max_new_tokens"]
        chosen = [[-1.0 - place, token, None] for place, token in enumerate(tokens)]
        listed = [
            [[-1.0 - place - other, token + other, None] for other in range(top)]
            for place, token in enumerate(tokens)
        ]
        meta = {
            "id": "fake",
            "finish_reason": {"type": "length", "length": len(tokens)},
            "prompt_tokens": len(ids),
            "completion_tokens": len(tokens),
            "cached_tokens": 0,
            "weight_version": self.rule.get("version", self.version),
            "input_token_logprobs": [],
            "output_token_logprobs": chosen,
            "input_top_logprobs": [],
            "output_top_logprobs": listed,
            "e2e_latency": 0.1,
        }
        return {"text": "fake", "output_ids": tokens, "meta_info": meta}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: Fake

    def do_GET(self) -> None:
        self.serve()

    def do_POST(self) -> None:
        self.serve()

    def serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path == "/health":
            self.reply(200, None)
            return
        if self.headers.get("authorization") != f"Bearer {self.fake.key}":
            self.reply(401, {"error": "Unauthorized"})
            return
        body = json.loads(raw or b"null")
        self.fake.log({"path": self.path, "body": body})
        self.reply(*self.fake.answer(self.path, body))

    def reply(self, status: int, answer: Any) -> None:
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None: ...


def main() -> None:
    fake = Fake(Path(sys.argv[1]), json.loads(sys.stdin.readline()))
    if "start" in fake.rule:
        print("the fake does not start")
        sys.exit(fake.rule["start"])
    Handler.fake = fake
    server = ThreadingHTTPServer(("127.0.0.1", fake.port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
