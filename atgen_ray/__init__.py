"""Active learning for text generation, as a service on Ray.

The functions and classes of `__all__` are all that a program needs:

    import atgen_ray

    run = atgen_ray.run("demo")
    run.labels()

They come from the room `atgen_ray.api`, and are imported when they are first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atgen_ray.api.comparing import Comparison, compare, report
    from atgen_ray.api.configuration import load_config
    from atgen_ray.api.deleting import delete
    from atgen_ray.api.evaluating import Evaluation, evaluate
    from atgen_ray.api.running import Plan, plan, run
    from atgen_ray.api.runs import Run, list_runs, open_run
    from atgen_ray.api.selecting import select, select_examples
    from atgen_ray.config import RunConfig
    from atgen_ray.core.errors import RunFailedError, UserError
    from atgen_ray.store.events import Event

__version__ = "0.1.0"

# Where each name comes from.
_HOMES = {
    "Comparison": "api.comparing",
    "Evaluation": "api.evaluating",
    "Event": "store.journal",
    "Plan": "api.running",
    "Run": "api.runs",
    "RunConfig": "config",
    "RunFailedError": "core.errors",
    "UserError": "core.errors",
    "compare": "api.comparing",
    "delete": "api.deleting",
    "evaluate": "api.evaluating",
    "list_runs": "api.runs",
    "load_config": "api.configuration",
    "open_run": "api.runs",
    "plan": "api.running",
    "report": "api.comparing",
    "run": "api.running",
    "select": "api.selecting",
    "select_examples": "api.selecting",
}

__all__ = [
    "Comparison",
    "Evaluation",
    "Event",
    "Plan",
    "Run",
    "RunConfig",
    "RunFailedError",
    "UserError",
    "__version__",
    "compare",
    "delete",
    "evaluate",
    "list_runs",
    "load_config",
    "open_run",
    "plan",
    "report",
    "run",
    "select",
    "select_examples",
]


def __getattr__(name: str) -> Any:
    """The first use of a name of `__all__` (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
