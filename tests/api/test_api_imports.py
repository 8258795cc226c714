"""`import atgen_ray`: what it costs, what it offers, and that the room `run` does no harm to the
function.
"""

import inspect
import subprocess
import sys
from importlib.util import find_spec

import pytest

import atgen_ray

HEAVY = {"ray", "torch", "transformers", "vllm", "datasets", "pandas", "pyarrow", "sqlalchemy"}
HEAVY |= {"numpy", "pydantic", "rich", "IPython", "matplotlib"}


def test_the_import_brings_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import atgen_ray; dir(atgen_ray)\n"
        "atgen_ray.run; atgen_ray.select; atgen_ray.evaluate; atgen_ray.compare\n"
        "print(time.perf_counter() - start); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    seconds, modules = done.stdout.splitlines()
    assert not {module.partition(".")[0] for module in modules.split()} & HEAVY
    assert float(seconds) < 1  # usually 0.02


def test_everything_that_is_promised_is_there_typed_and_explained() -> None:
    assert set(atgen_ray.__all__) <= set(dir(atgen_ray))
    for name in set(atgen_ray.__all__) - {"__version__"}:
        thing = getattr(atgen_ray, name)
        assert thing.__name__ == name
        assert len((thing.__doc__ or "").split()) >= 5, name
        if inspect.isfunction(thing):
            parameters = inspect.signature(thing).parameters.values()
            assert all(each.annotation is not each.empty for each in parameters), name
            assert "Example:" in (thing.__doc__ or ""), name
    for name, member in inspect.getmembers(atgen_ray.Run):
        assert name.startswith("_") or member.__doc__, name


def test_no_room_takes_the_place_of_a_public_name() -> None:
    # Python sets a submodule as an attribute of its package once anything imports it.
    for name in atgen_ray.__all__:
        assert find_spec(f"atgen_ray.{name}") is None, name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'ran'"):
        _ = atgen_ray.ran
