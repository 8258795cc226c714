"""`atgen-ray runs export --push`: what the hub is told, by its own client."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command_line import Ended, call
from helpers.fakes.hub_writes import TOKEN, Hub, serve_writable_hub
from helpers.tuned_run import make_small_model, make_tuned_run

from atgen_ray.store.audit import AuditLog
from atgen_ray.store.exports import list_exports
from atgen_ray.store.journal import open_journal


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process's huggingface_hub asks, with a token for it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serve_writable_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        yield hub


@pytest.fixture(autouse=True)
def _with_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ATGEN_DATABASE_URL", raising=False)
    make_small_model(tmp_path / "model")
    make_tuned_run("./atgen-runs", str(tmp_path / "model"), rounds=1)


def push(what: str, *arguments: str) -> Ended:
    return call("runs", "export", "sort", "--what", what, *arguments)


def test_a_data_set_an_adapter_and_a_card_are_pushed_to_private_repositories(hub: Hub) -> None:
    told = push("dataset", "--push", "me/labels")
    assert (told.status, told.err) == (0, "")
    assert told.out.splitlines()[0] == f"pushed to {hub.url}/datasets/me/labels, which is private"
    assert push("adapter", "--push", "me/adapter").status == 0
    assert push("card", "--push", "me/adapter").status == 0
    models, datasets = ("models", "me/adapter"), ("datasets", "me/labels")
    assert hub.private == {models: True, datasets: True}
    for folder, key in (("sort-dataset", datasets), ("sort-adapter", models)):
        written = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        card = Path("sort-card.md").read_bytes() if key == models else written["README.md"]
        assert hub.files[key] == written | {"README.md": card}
    assert len(hub.objects) == 1  # the weights, by LFS
    assert hub.messages[0] == "dataset of the run sort of atgen-ray"
    journal = open_journal("./atgen-runs")
    assert f"{hub.url}/datasets/me/labels" in {
        each.place for each in list_exports(journal, ["sort"])
    }
    said = [entry for entry in AuditLog(journal.database).read() if "push" in entry["action"]]
    journal.close()
    assert said[0]["detail"] == {"to": "me/labels"}
    assert TOKEN not in str(said)


def test_a_public_repository_is_asked_for_by_name(hub: Hub) -> None:
    hub.private["models", "me/open"] = False
    refused = push("adapter", "--push", "me/open")
    assert (refused.status, refused.err) == (
        2,
        "error: --push is 'me/open', which is public: expected a private repository, or --public\n",
    )
    assert not hub.files
    told = push("adapter", "--push", "me/open", "--public", "--output", "again")
    assert told.out.splitlines()[0] == f"pushed to {hub.url}/me/open"
    assert ("models", "me/open") in hub.files


@pytest.mark.parametrize(
    ("token", "what", "repository", "line"),
    [
        (
            "",
            "adapter",
            "me/x",
            "--push is 'me/x', but HF_TOKEN is not set: expected a token of the hub that may write "
            "there",
        ),
        (TOKEN, "adapter", "x", "--push is 'x', expected OWNER/NAME"),
        (
            TOKEN,
            "labels",
            "me/x",
            "--push takes dataset, adapter, merged, gguf or card, but --what is 'labels'",
        ),
    ],
)
def test_what_cannot_be_pushed_is_told_before_the_work(
    token: str,
    what: str,
    repository: str,
    line: str,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    refused = push(what, "--push", repository)
    assert (refused.status, refused.err) == (2, f"error: {line}\n")
    assert not Path(f"sort-{what}").exists()


def test_a_wrong_token_is_one_line_without_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong-canary")
    refused = push("dataset", "--push", "me/x")
    assert refused.status == 2
    assert refused.err.startswith("error: --push is 'me/x', which the hub did not take: ")
    assert refused.err.count("\n") == 1
    assert "canary" not in refused.err


def test_a_hub_that_is_away_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    refused = push("dataset", "--push", "me/x")
    assert refused.status == 2
    assert refused.err.startswith("error: --push is 'me/x', which the hub did not take: ")
    assert refused.err.count("\n") == 1
    assert Path("sort-dataset").is_dir()  # what was written stays
