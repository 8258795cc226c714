"""Workers are asked on the machines that they may be placed on."""

from helpers.command_line import SMALLEST

from atgen_ray.config.loading import parse_config
from atgen_ray.preflight import find_cluster_problems


def test_machines_of_a_cluster_are_asked_what_their_workers_find(ray_session: None) -> None:
    wrong = SMALLEST | {"training": {"backend": "unsloth"}, "model": {"id": "./nothing"}}
    lines = find_cluster_problems(parse_config(wrong | {"selection": {"strategy": "random"}}))
    assert lines == [
        "training.backend is 'unsloth', which needs a GPU for every worker; there is none here: "
        "set training.backend=transformers",
        "training.backend is 'unsloth', which needs: pip install 'atgen-ray[unsloth]'",
        "model.id is './nothing', expected an existing folder, .gguf file or hub id",
    ]
