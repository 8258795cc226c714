"""Annotators label query batches; `ANNOTATORS` names them."""

from atgen_ray.annotation.context import AnnotationContext, Annotator
from atgen_ray.annotation.function import FunctionAnnotator
from atgen_ray.annotation.registry import ANNOTATORS, build_annotator, check_annotators
from atgen_ray.config.plugins import AnnotatorPlugin

__all__ = [
    "ANNOTATORS",
    "AnnotationContext",
    "Annotator",
    "AnnotatorPlugin",
    "FunctionAnnotator",
    "build_annotator",
    "check_annotators",
]
