"""A service that runs, as tests see it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from helpers.projects import Project

if TYPE_CHECKING:
    import openai


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

    def openai(self) -> "openai.OpenAI":
        """The official client."""
        import openai

        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self.admin, max_retries=0, timeout=120
        )


def sign_in(url: str, token: str) -> str:
    """The cookie of a new session of a browser."""
    answer = httpx.post(
        f"{url}/sign-in", data={"token": token}, headers={"Origin": url}, timeout=120
    )
    assert answer.status_code == 303, answer.text
    return str(answer.cookies["atgen"])


def continue_greedily(
    model: str, adapter: Path | None, prompt: str, tokens: int
) -> tuple[list[str], list[float]]:
    """The greedy answer by transformers and peft: its tokens as texts, and their
    log-probabilities.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    scorer: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    if adapter is not None:
        scorer = PeftModel.from_pretrained(scorer, str(adapter)).eval()
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.inference_mode():
        out = scorer.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=2,
        )
        logits = scorer(input_ids=out).logits[0, ids.shape[1] - 1 : -1].float()
    new = out[0, ids.shape[1] :]
    logprobs = torch.log_softmax(logits, -1).gather(1, new[:, None]).squeeze(1).tolist()
    return [tokenizer.decode([token]) for token in new], logprobs


def bearer(token: str) -> dict[str, str]:
    """The header that shows a token."""
    return {"Authorization": f"Bearer {token}"}
