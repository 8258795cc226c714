"""The engine is chosen by what the nodes have that do the work."""

import pytest

from atgen_ray.config import ModelConfig
from atgen_ray.core.errors import UserError
from atgen_ray.engines.choice import choose_backend, describe_worker, name_dtype
from atgen_ray.ray_runtime.hardware import Device
from atgen_ray.ray_runtime.nodes import describe_difference, name_nodes

ALL, SOME, NONE = (
    {"a": first, "b": second} for first, second in ((True, True), (True, False), (False, False))
)


def test_auto_is_what_all_nodes_have() -> None:
    assert choose_backend("auto", ALL) == "vllm"
    assert choose_backend("auto", NONE) == "transformers"
    assert choose_backend("transformers", SOME) == "transformers"


def test_nodes_that_differ_are_named() -> None:
    expected = (
        "engine.backend is 'auto', and vllm is installed on a but not on b: install it on all nodes "
        "that may hold a worker, or set engine.backend=transformers"
    )
    with pytest.raises(UserError) as caught:
        choose_backend("auto", SOME)
    assert str(caught.value) == expected


def test_an_engine_that_a_node_lacks_is_refused() -> None:
    assert choose_backend("vllm", ALL) == "vllm"
    with pytest.raises(
        UserError, match=r"^engine\.backend is 'vllm', which is not installed on b: "
    ):
        choose_backend("vllm", SOME)


def test_number_formats_are_those_of_the_device() -> None:
    new, old = Device(cuda=True, bfloat16=True), Device(cuda=False, bfloat16=False)
    assert [name_dtype("auto", device) for device in (new, old)] == ["bfloat16", "float32"]
    assert describe_worker(ModelConfig(id="m", dtype="float16"), new) == "float16 on CUDA"
    assert describe_worker(ModelConfig(id="m"), old) == "float32 on the CPU"


def test_answers_that_differ_are_told_with_their_nodes() -> None:
    assert describe_difference({"a": "x", "b": "x"}) == ""
    assert describe_difference({"a": "x", "b": "y", "c": "x"}) == "x on a and c, y on b"


def test_nodes_at_one_address_have_names_of_their_own() -> None:
    nodes = [
        {"NodeID": f"{name}" * 10, "NodeManagerAddress": address}
        for name, address in (("a", "10.0.0.2"), ("b", "10.0.0.2"), ("c", "10.0.0.3"))
    ]
    assert [*name_nodes(nodes).values()] == [
        "10.0.0.2 (aaaaaaaa)",
        "10.0.0.2 (bbbbbbbb)",
        "10.0.0.3",
    ]
