"""Where data and checkpoints live."""

import sys
from pathlib import Path

import pytest

from atgen_ray.core.checkpoints import resolve_checkpoint
from atgen_ray.core.errors import UserError
from atgen_ray.core.locations import locate


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an importable package `atgen_sample` whose code must never run, beside a secret
    file.
    """
    root = tmp_path_factory.mktemp("site")
    folder = root / "atgen_sample"
    (folder / "data" / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "data" / "rows.jsonl").write_text("{}\n")
    (folder / "data" / "deep" / "größe 1.csv").write_text("a\n")
    (root / "atgen_sample-1.dist-info").mkdir()
    (root / "atgen_sample-1.dist-info" / "METADATA").write_text("Name: atgen-sample\nVersion: 1\n")
    (root / "atgen_sample-1.dist-info" / "top_level.txt").write_text("atgen_sample\natgen_module\n")
    (root / "loose").mkdir()
    (root / "loose" / "rows.jsonl").write_text("{}\n")
    (root / "loose" / "__init__.py").touch()
    (root / "secret.txt").write_text("secret")
    (root / "atgen_module.py").write_text("raise RuntimeError('imported')\n")
    (folder / "link").symlink_to(root / "secret.txt")
    (folder / "inner").symlink_to(folder / "data")
    return folder


@pytest.fixture(autouse=True)
def _importable(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(package.parent))


def mistake(location: str) -> str:
    """The one line with which a location is refused."""
    with pytest.raises(UserError) as caught:
        locate(location, "data.pool")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("data.pool is ")
    return message


@pytest.mark.parametrize(
    "location",
    [
        "pool.jsonl",
        "/data/pool",
        "s3://bucket/pool",
        "org/dataset",
        "",
        "package:/x",
        "PACKAGE://x/y",
        "file://x",
    ],
)
def test_other_locations_stay_as_they_are(location: str) -> None:
    assert locate(location, "data.pool") == location


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("data/rows.jsonl", "data/rows.jsonl"),
        ("data/deep/größe 1.csv", "data/deep/größe 1.csv"),
        ("data", "data"),
        ("data/../data/rows.jsonl", "data/rows.jsonl"),
        ("./data//rows.jsonl", "data/rows.jsonl"),
        ("inner/rows.jsonl", "data/rows.jsonl"),
    ],
)
def test_a_file_of_a_package_is_found_without_running_its_code(
    package: Path, file: str, found: str
) -> None:
    assert locate(f"package://atgen_sample/{file}", "data.pool") == str(package / found)
    assert "atgen_sample" not in sys.modules


def test_our_own_package_has_files_too() -> None:
    assert Path(locate("package://atgen_ray/presets/demo.yaml", "data.pool")).is_file()


@pytest.mark.parametrize(
    "file",
    [
        "missing.jsonl",
        "../secret.txt",
        "data/../../secret.txt",
        "/etc/passwd",
        "link",
        "%2e%2e/secret.txt",
        "..\\secret.txt",
        "data/rows.jsonl\0",
        "a" * 300,
        "a/" * 3000,
    ],
)
def test_what_is_not_a_file_of_the_package_is_refused(file: str) -> None:
    message = mistake(f"package://atgen_sample/{file}")
    assert "but package 'atgen_sample' has no " in message
    assert len(message) < 400


@pytest.mark.parametrize(
    "name",
    [
        "no_such_package",
        "loose",
        "atgen_module",
        "json.decoder",
        "..",
        "",
        " ",
        "atgen-sample",
        "__main__",
        "a\nb",
        "é" * 300,
    ],
)
def test_what_is_no_package_is_refused(name: str) -> None:
    message = mistake(f"package://{name}/rows.jsonl")
    assert "is installed here" in message
    assert len(message) < 400


# ---- checkpoints


@pytest.mark.parametrize("model", ["org/model", "model", "org/model.v2-x_1"])
def test_a_hub_id_passes_through(model: str) -> None:
    assert resolve_checkpoint(model) == model


def test_a_folder_with_a_checkpoint_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.setenv("HOME", str(tmp_path))
    for model in (str(tmp_path / "model"), "~/model"):
        assert resolve_checkpoint(model) == str(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert resolve_checkpoint("model") == "model"
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(
        UserError,
        match=r"^model.id is 'model', expected a checkpoint, but the folder has no config",
    ):
        resolve_checkpoint("model")


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (
            "/no/such/folder",
            "embedding.model is '/no/such/folder', expected an existing folder, .gguf file or hub "
            "id",
        ),
        (
            "./model",
            "embedding.model is './model', expected an existing folder, .gguf file or hub id",
        ),
        (
            "~/no-model-here",
            "embedding.model is '~/no-model-here', expected an existing folder, .gguf file or hub "
            "id",
        ),
        ("model.gguf", "embedding.model is 'model.gguf', expected an existing .gguf file"),
        (
            "~nobody-here/model",
            "embedding.model is '~nobody-here/model', which is no path: Could not determine home ",
        ),
        ("a" * 300, f"embedding.model is '{'a' * 80}', which is no path: File name too long"),
        (
            "package://no_such/x.gguf",
            "embedding.model is 'package://no_such/x.gguf', but no package 'no_such' is inst",
        ),
    ],
)
def test_what_holds_no_checkpoint_is_refused(
    model: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        resolve_checkpoint(model, "embedding.model")
    assert str(caught.value).startswith(line)
    assert len(str(caught.value).splitlines()) == 1


def test_a_broken_gguf_file_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    for content in (b"", b"GGUF", b"no checkpoint at all" * 9):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"^model.id is '.*', which cannot be read: ") as caught:
            resolve_checkpoint(str(path))
        assert len(str(caught.value).splitlines()) == 1
    assert {
        path.suffix for path in (tmp_path / "cache" / "atgen-ray" / "checkpoints").iterdir()
    } == {".lock"}
