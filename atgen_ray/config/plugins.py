"""Registries of plug-ins that the configuration names: annotators, engines and checks of labels.

The built-in members are in higher rooms; here are only their names, which no plug-in may take.
Strategies and metrics have registries in their own rooms.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from atgen_ray.core.plugins import Registry, expect_callable, expect_type

PLUGIN = "plugin"  # the type of every annotator of a package in a resolved configuration
BACKENDS = ("auto", "vllm", "sglang", "transformers")
TYPES = (
    "dataset",
    "human",
    "openai",
    "anthropic",
    "mistral",
    "gemini",
    "model",
    "router",
    PLUGIN,
)


@dataclass(frozen=True)
class AnnotatorPlugin:
    """An annotator of another package.

    Attributes:
        parameters: the pydantic model of `annotator.parameters`; it should forbid unknown keys.
        build: (config, context, key) -> Annotator, as for annotators that are built in: the
            `PluginAnnotatorConfig`, the `AnnotationContext` of one round, and the key of the
            configuration section for messages.
    """

    parameters: type[BaseModel]
    build: Callable[[Any, Any, str], Any]


ANNOTATOR_PLUGINS: Registry[AnnotatorPlugin] = Registry(
    "atgen_ray.annotators", "annotator", {}, expect_type(AnnotatorPlugin), reserved=TYPES
)
# (ModelConfig, PromptConfig, EngineConfig) -> Engine
ENGINE_PLUGINS: Registry[Callable[[Any, Any, Any], Any]] = Registry(
    "atgen_ray.engines", "engine", {}, expect_callable, reserved=BACKENDS
)
# (text, label) -> why the label is turned away, or None
CHECKS: Registry[Callable[[str, str], str | None]] = Registry(
    "atgen_ray.checks", "check", {}, expect_callable
)


def name_annotator(tree: Any) -> Any:
    """Return the section of an annotator with `type: NAME` of a plug-in in its resolved form; a
    type alone becomes a section. Any other section is returned as it is.
    """
    tree = {"type": tree} if isinstance(tree, str) else tree
    if not isinstance(tree, dict) or not isinstance(tree.get("type"), str):
        return tree
    name = tree["type"]
    ANNOTATOR_PLUGINS.refuse_clash(name)
    return {**tree, "type": PLUGIN, "name": name} if name in ANNOTATOR_PLUGINS else tree
