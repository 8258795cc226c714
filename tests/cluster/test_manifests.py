"""Configurations for Serve, clusters and Kubernetes, against the schemas of those who read them."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray.autoscaler
import yaml
from ray.serve.schema import ServeDeploySchema

from atgen_ray.config import ServiceConfig
from atgen_ray.serving.server import IMPORT_PATH

ROOT = Path(__file__).parents[2]
SERVE = sorted((ROOT / "serve_configs").glob("*.yaml"))
FILES = sorted((ROOT / "cluster/kuberay").glob("*.yaml"))
KUBERAY = [path for path in FILES if path.stem.startswith("ray-")]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def read_all(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", SERVE, ids=lambda path: path.stem)
def test_serve_takes_each_configuration_and_so_do_we(path: Path) -> None:
    ServeDeploySchema.model_validate(read(path))
    ours = next(app for app in read(path)["applications"] if app["import_path"] == IMPORT_PATH)
    service = ServiceConfig.model_validate(ours["args"])
    known = {"api", "selector"} | ({"model"} if service.model else set())
    assert {each["name"] for each in ours.get("deployments", [])} <= known


def test_the_settings_of_each_vllm_configuration_are_known_to_vllm_and_ray() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    from atgen_ray.serving.replicas.vllm import configure_vllm

    for name in ("one-gpu-vllm", "several-nodes-vllm"):
        service = ServiceConfig.model_validate(
            read(ROOT / f"serve_configs/{name}.yaml")["applications"][0]["args"]
        )
        config = configure_vllm(service)
        assert set(config.engine_kwargs) <= set(AsyncEngineArgs.__dataclass_fields__)
        assert config.engine_kwargs["dtype"] == "float32"  # adapters are added to the weights
        engine = service.engine.model_copy(update={"adapters": "name"})
        named = configure_vllm(service.model_copy(update={"engine": engine}))
        assert named.engine_kwargs["max_loras"] > service.replica.adapters
        engine = service.engine.model_copy(update={"gpus_per_worker": 4.0, "options": {}})
        split = configure_vllm(service.model_copy(update={"engine": engine}))
        assert split.engine_kwargs["tensor_parallel_size"] == 4
        assert split.placement_group_config["bundle_per_worker"]["GPU"] == 1


@pytest.mark.parametrize("name", ["aws", "on-premise"])
def test_cluster_files_fit_rays_schema(name: str) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(read(ROOT / f"cluster/{name}.yaml"), schema)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_kubernetes_takes_each_document_that_is_its_own(path: Path) -> None:
    """No package carries KubeRay's CRDs: of them the pods are checked, below."""
    for document in read_all(path):
        if document["apiVersion"] != "ray.io/v1":
            kubernetes_validate.validate(document, "1.30", strict=True)


def test_every_disruption_budget_is_for_pods_that_exist() -> None:
    labels = [pod["metadata"]["labels"] for path in FILES for pod in list_pods(path)]
    budgets = [each for path in FILES for each in read_all(path) if "Budget" in each["kind"]]
    assert len(budgets) == 5
    for budget in budgets:
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        assert any(wanted <= found.items() for found in labels), budget
        # Kubernetes knows no size of a RayCluster, so neither a share nor maxUnavailable works.
        assert budget["spec"]["minAvailable"] == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_pod_is_locked_down_and_says_what_it_needs(path: Path) -> None:
    for pod in list_pods(path):
        spec = pod["spec"]
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec},
            "1.30",
            strict=True,
        )
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert volumes[mounts["/tmp"]]["emptyDir"] == {}
            assert set(mounts.values()) <= volumes.keys() | {"data"}


def test_secrets_go_to_those_whom_they_concern() -> None:
    """The database's own password to the database; its URL to whoever opens the journal; keys of
    providers to controllers.
    """
    given = {
        f"{path.stem} {container['name']}": {
            each["secretRef"]["name"] for each in container.get("envFrom", [])
        }
        for path in KUBERAY
        for pod in list_pods(path)
        for container in pod["spec"]["containers"]
    }
    controllers = {"atgen-database", "atgen-keys", "atgen-hub"}
    assert given == {
        "ray-cluster ray-head": controllers,
        "ray-cluster ray-worker": {"atgen-hub"},
        "ray-job ray-head": controllers,
        "ray-job ray-worker": {"atgen-hub"},
        "ray-job ray-job-submitter": set(),
        "ray-service ray-head": controllers,
        "ray-service ray-worker": {"atgen-database", "atgen-hub"},
    }
    for path in FILES:  # nobody but the database sees its private key
        for pod in list_pods(path):
            for volume in pod["spec"]["volumes"]:
                secret = volume.get("secret", {})
                if secret.get("secretName") == "postgres-tls" and path.stem != "storage":
                    assert secret["items"] == [{"key": "tls.crt", "path": "tls.crt"}]


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.stem)
def test_kuberay_manifests_hold_a_cluster_that_can_start(path: Path) -> None:
    manifest = read_all(path)[0]
    assert manifest["apiVersion"] == "ray.io/v1"
    cluster = find_cluster(manifest)
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    assert "gcsFaultToleranceOptions" not in cluster  # nothing here deploys a Redis
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = {
        container["image"]
        for group in groups
        for container in group["template"]["spec"]["containers"]
    }
    assert len(images) == 1  # what the head imports to build the service, it has
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    if manifest["kind"] == "RayService":
        served = yaml.safe_load(manifest["spec"]["serveConfigV2"])
        ServeDeploySchema.model_validate(served)
        ServiceConfig.model_validate(served["applications"][0]["args"])


def find_cluster(manifest: Any) -> Any:
    """What a manifest of KubeRay says of its cluster."""
    keys = {"RayCluster": None, "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
    at = keys[manifest["kind"]]
    return manifest["spec"][at] if at else manifest["spec"]


def list_pods(path: Path) -> list[Any]:
    """The templates of the pods of a file, each with metadata."""
    pods = []
    for document in read_all(path):
        if document["kind"] == "StatefulSet":
            pods.append(document["spec"]["template"])
        elif document["apiVersion"] == "ray.io/v1":
            cluster = find_cluster(document)
            groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
            pods += [group["template"] for group in groups]
            if "submitterPodTemplate" in document["spec"]:
                pods.append({"metadata": {"labels": {}}} | document["spec"]["submitterPodTemplate"])
    return pods


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_the_lock_files_have_the_versions_that_were_tested_together(name: str) -> None:
    """After a change of either file, `make lock` writes the locks anew."""
    locked = read_versions(ROOT / f"cluster/requirements-{name}.txt")
    tested = read_versions(ROOT / "constraints.txt")
    assert {key: locked[key] for key in locked.keys() & tested.keys()} == {
        key: tested[key] for key in locked.keys() & tested.keys()
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["s3"], "boto3"]
    names = {re.split(r"[\[<>=!~ ]", each)[0].lower() for each in wanted}
    assert names - locked.keys() <= ({"torch"} if name == "cpu" else set())


def test_the_licence_of_every_package_of_the_image_is_listed() -> None:
    listed = re.findall(r"^\| ([\w.-]+) ", (ROOT / "cluster/licences.md").read_text(), re.M)
    named = {name.lower().replace("_", "-").replace(".", "-") for name in listed}
    locked = read_versions(ROOT / "cluster/requirements-cpu.txt")
    assert {name.replace(".", "-") for name in locked} - named == set()


def read_versions(path: Path) -> dict[str, str]:
    """The version of each package that a requirements file pins."""
    pins = re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.M)
    return {name.lower().replace("_", "-"): version for name, version in pins}


def test_the_dockerfile_has_no_lint() -> None:
    lint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [str(lint), str(ROOT / "cluster/Dockerfile")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_runtime_environment_is_one() -> None:
    from ray.runtime_env import RuntimeEnv

    RuntimeEnv(**read(ROOT / "cluster/runtime-env.yaml"))
