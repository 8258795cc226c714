"""Workers are asked on the machines that they may be placed on."""

from helpers.command_line import SMALLEST

from atgen_ray.config.loading import parse_config
from atgen_ray.preflight import find_cluster_problems


def test_machines_of_a_cluster_are_asked_what_their_workers_find(ray_session: None) -> None:
    wrong = SMALLEST | {"training": {"method": "qlora"}, "model": {"id": "./nothing"}}
    lines = find_cluster_problems(parse_config(wrong | {"selection": {"strategy": "random"}}))
    assert lines == [
        "training.method is 'qlora', which needs a GPU for every worker; there is none here",
        "training.method is 'qlora', which needs: pip install 'atgen-ray[qlora]'",
        "model.id is './nothing', expected an existing folder, .gguf file or hub id",
    ]
