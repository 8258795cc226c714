"""Checks of packages and devices that the chosen method, engine, trackers, annotators and service
need.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path

from atgen_ray.annotation.disclosure import find_ended_models, list_remote
from atgen_ray.annotation.human.gold_items import check_gold
from atgen_ray.annotation.registry import build_provider
from atgen_ray.config import HumanAnnotatorConfig, list_annotators
from atgen_ray.core.errors import UserError
from atgen_ray.engines.choice import choose_backend, choose_on_nodes, find_differences
from atgen_ray.engines.serve_engine import find_model
from atgen_ray.notifications import WEBHOOK, check_secret
from atgen_ray.preflight.check import Setting, list_models
from atgen_ray.training.methods import find_method_mistakes

WANDB = "api.wandb.ai"


def check_gold_items(setting: Setting) -> Iterator[str]:
    """Check the files of gold items."""
    for key, annotator in list_annotators(setting.config.annotator):
        if isinstance(annotator, HumanAnnotatorConfig):
            try:
                check_gold(annotator, key)
            except UserError as error:
                yield str(error)


def check_annotators(setting: Setting) -> Iterator[str]:
    """Check the SDKs and keys of the annotators and of the judge, and that their models exist."""
    config = setting.config
    if not setting.trains:
        return
    for key, annotator in list_remote(config):
        try:
            build_provider(annotator, config.name, key)
        except UserError as error:
            yield str(error)
    yield from find_ended_models(config, datetime.now(UTC).date())


def check_engines(setting: Setting) -> Iterator[str]:
    """Check that the engines are installed, and that there are GPUs for their replicas."""
    for key, model, engine in list_models(setting):
        if model.host == "serve":
            continue
        section = f"{key.removesuffix('model')}engine"
        try:
            choose_backend(engine.backend)
        except UserError as error:
            yield str(error).replace("engine.backend", f"{section}.backend")
        wanted = engine.workers * (engine.gpus_per_worker or 0.0)
        if wanted > setting.gpus:
            yield (
                f"{section}.gpus_per_worker is {engine.gpus_per_worker:g}, which "
                f"{section}.workers={engine.workers} "
                f"make {wanted:g} GPUs, but workers can have {setting.gpus:g} GPUs: set it to "
                f"null, or add some"
            )


def check_nodes_alike(setting: Setting) -> Iterator[str]:
    """Check that workers take the same engine, device and number format on every node of the Ray
    cluster on which they may be placed.
    """
    for key, model, engine in list_models(setting):
        if model.host == "serve":
            continue
        section = f"{key.removesuffix('model')}engine"
        try:
            choose_on_nodes(engine)
        except UserError as error:
            if engine.backend == "auto":  # another one is told by the nodes themselves
                yield str(error).replace("engine.", f"{section}.")
        for line in find_differences(engine, model):
            yield line.replace("engine.", f"{section}.").replace("model.", f"{key}.")


def check_training(setting: Setting) -> Iterator[str]:
    """Check what the training method, its backend and its workers need."""
    if not setting.trains:
        return
    training = setting.config.training
    yield from find_method_mistakes(training, setting.trains_on_gpu)
    wanted = training.workers * training.gpus_per_worker
    if training.use_gpu and wanted > setting.gpus:
        yield (
            f"training.use_gpu is true, and training.workers={training.workers} with "
            f"training.gpus_per_worker="
            f"{training.gpus_per_worker:g} need {wanted:g} GPUs, but workers can have "
            f"{setting.gpus:g} GPUs: ask for "
            "fewer, or set training.use_gpu=null"
        )
    several = training.workers > 1 and setting.trains_on_gpu
    if training.gpus_per_worker > 1 or (several and training.gpus_per_worker < 1):
        yield (
            f"training.gpus_per_worker is {training.gpus_per_worker:g}, expected 1 for "
            f"training.workers={training.workers}: a worker computes on one GPU, and several "
            f"workers cannot share one"
        )
    if (
        "tensorboard" in training.trackers
        and setting.config.storage.startswith("s3://")
        and find_spec("boto3") is None
    ):
        yield (
            "training.trackers holds 'tensorboard', which writes to an s3:// storage by boto3: "
            "pip install boto3"
        )


def check_trackers(setting: Setting) -> Iterator[str]:
    """Check that the trackers are installed and know where they send to."""
    trackers = setting.config.training.trackers
    if not setting.trains:
        return
    for tracker in trackers:
        if tracker != "tensorboard" and find_spec(tracker) is None:
            yield (
                f"training.trackers holds '{tracker}', which needs: pip install "
                f"'atgen-ray[{tracker}]'"
            )
    if "mlflow" in trackers and not os.environ.get("MLFLOW_TRACKING_URI"):
        yield (
            "training.trackers holds 'mlflow', which finds no server: set MLFLOW_TRACKING_URI, as "
            "sqlite:////FOLDER/mlflow.db to keep a database here"
        )
    if "wandb" in trackers and find_spec("wandb") is not None and not _knows_wandb():
        yield (
            "training.trackers holds 'wandb', which finds no account: set WANDB_API_KEY, or "
            "WANDB_MODE=offline to keep "
            "its files here"
        )


def check_notifications(setting: Setting) -> Iterator[str]:
    """Check that notifications of the owner have a way to go out, and the key that signs them."""
    notify = setting.config.notify
    if notify is None:
        return
    if notify.webhook is None and notify.email is None and not os.environ.get(WEBHOOK):
        yield (
            f"notify has neither webhook nor email, expected one of them, or {WEBHOOK} in the "
            f"environment"
        )
    try:
        check_secret()
    except UserError as error:
        yield str(error)


def check_service(setting: Setting) -> Iterator[str]:
    """Check that the service whose replicas `model.host: serve` uses is there."""
    if setting.config.model.host != "serve":
        return
    import ray

    if not ray.is_initialized():
        yield (
            "model.host is 'serve', which needs a cluster with a service: start `atgen-ray serve "
            "--config FILE` and "
            "set RAY_ADDRESS, or set model.host=batch"
        )
        return
    find_model()


def _knows_wandb() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return True
    try:
        return netrc(Path.home() / ".netrc").authenticators(WANDB) is not None
    except (OSError, RuntimeError, NetrcParseError):  # there is no file, or no home
        return False
