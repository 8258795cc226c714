"""A client generated from the description of the API has every operation, and speaks with the
service.
"""

import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers.services import Service
from openapi_python_client import Config, MetaType, generate
from openapi_python_client.config import ConfigFile

METHODS = ("get", "post", "put", "delete", "patch")


def list_operations(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        operation | {"path": path, "method": method}
        for path, item in schema["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


@pytest.fixture(scope="module")
def schema(service: Service) -> dict[str, Any]:
    with service.client() as client:
        return dict(client.get("/openapi.json").json())


@pytest.fixture(scope="module")
def generated(schema: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The package of the client, imported."""
    folder = tmp_path_factory.mktemp("generated")
    source = folder / "openapi.json"
    source.write_text(json.dumps(schema))
    settings = ConfigFile(package_name_override="generated_atgen_client", post_hooks=[])
    config = Config.from_sources(
        settings,
        MetaType.NONE,
        document_source=source,
        file_encoding="utf-8",
        overwrite=True,
        output_path=folder / "generated_atgen_client",
    )
    problems = generate(config=config)
    assert [
        f"{each.header} {each.detail}" for each in problems if "error" in each.level.value.lower()
    ] == []
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("generated_atgen_client")
    finally:
        sys.path.remove(str(folder))


def test_names_occur_once(schema: dict[str, Any]) -> None:
    titles = Counter(
        part.get("title", name) for name, part in schema["components"]["schemas"].items()
    )
    names = Counter(operation["operationId"] for operation in list_operations(schema))
    assert [name for name, count in (titles + names).items() if count > 1] == []


def test_every_operation_says_who_may_call_and_what_can_go_wrong(schema: dict[str, Any]) -> None:
    assert schema["components"]["securitySchemes"].keys() == {"bearer", "cookie"}
    for operation in list_operations(schema):
        public = operation["path"] in ("/healthz", "/readyz")
        assert operation["security"] == ([] if public else [{"bearer": []}, {"cookie": []}])
        if public:
            continue
        told = operation["responses"].keys()
        assert {"401", "403", "429", "500", "503"} <= told, operation["operationId"]
        assert "requestBody" not in operation or {"400", "413", "422"} <= told, operation[
            "operationId"
        ]
        assert "{name}" not in operation["path"] or {"404", "422"} <= told, operation["operationId"]
        for status in told - {"200", "201", "202"}:
            body = operation["responses"][status]["content"]["application/json"]["schema"]
            assert body == {"$ref": "#/components/schemas/ErrorBody"}


def test_no_operation_is_lost(schema: dict[str, Any], generated: ModuleType) -> None:
    modules = {path.stem for path in Path(str(generated.__file__)).parent.glob("api/*/*.py")} - {
        "__init__"
    }
    assert modules == {operation["operationId"] for operation in list_operations(schema)}


def test_the_client_speaks_with_the_service(service: Service, generated: ModuleType) -> None:
    def find(name: str) -> Any:
        return importlib.import_module(f"generated_atgen_client.{name}")

    def connect(token: str) -> Any:
        return generated.AuthenticatedClient(base_url=service.url, token=token)

    client, models = connect(service.admin), find("models")
    runs = find("api.runs.list_runs").sync(client=client)
    assert "sort" in [run.name for run in runs]
    body = models.SelectBody(
        examples=[models.ExampleBody(id=f"e{at}", text=f"text {at}") for at in range(5)],
        strategy="random",
        count=2,
    )
    picked = find("api.select.select").sync(client=client, body=body)
    assert picked.status == "finished"
    assert len(picked.selected) == 2
    draft = models.ConfigDraftBody(more="nonsense: 1")
    checked = find("api.configs.check_config").sync(client=client, body=draft)
    assert checked.mistakes
    show = find("api.runs.show_run")
    errors = {
        404: show.sync_detailed("nobody", client=client),
        422: show.sync_detailed("..x", client=client),
        401: show.sync_detailed("sort", client=connect("nonsense")),
        403: find("api.configs.check_config").sync_detailed(
            client=connect(service.annotator), body=draft
        ),
        400: find("api.select.select").sync_detailed(
            client=client, body=models.SelectBody(examples=body.examples, strategy="randm")
        ),
    }
    for status, answer in errors.items():
        assert answer.status_code == status
        assert isinstance(answer.parsed, models.ErrorBody)
        assert answer.parsed.error.code == status
        assert answer.parsed.error.message
