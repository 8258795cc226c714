"""Configurations for Serve, clusters and Kubernetes, against the schemas of those who read them."""

import json
import subprocess
import sys
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
KUBERAY = sorted((ROOT / "cluster/kuberay").glob("ray-*.yaml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


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


def test_kubernetes_takes_the_storage_manifest() -> None:
    documents = list(yaml.safe_load_all((ROOT / "cluster/kuberay/storage.yaml").read_text()))
    for document in documents:
        kubernetes_validate.validate(document, "1.30", strict=True)
    assert [document["kind"] for document in documents] == [
        "PersistentVolumeClaim",
        "Service",
        "StatefulSet",
    ]


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.stem)
def test_kuberay_manifests_hold_valid_pods_and_a_cluster(path: Path) -> None:
    """No package carries KubeRay's CRDs: pods are checked by Kubernetes' schema, what is around
    them by structure.
    """
    manifest = read(path)
    assert manifest["apiVersion"] == "ray.io/v1"
    spec = manifest["spec"]
    keys = {"RayCluster": None, "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
    at = keys[manifest["kind"]]
    cluster = spec[at] if at else spec
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}} | group["template"]
        kubernetes_validate.validate(pod, "1.30", strict=True)
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    if manifest["kind"] == "RayService":
        ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))


def test_the_dockerfile_has_no_lint() -> None:
    lint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [str(lint), str(ROOT / "cluster/Dockerfile")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_runtime_environment_is_one() -> None:
    from ray.runtime_env import RuntimeEnv

    RuntimeEnv(**read(ROOT / "cluster/runtime-env.yaml"))
