"""Annotators label query batches: known answers, people, language models, or a router between two
of them.

`build_annotator` builds the one that the configuration names (`ANNOTATORS`); all of them implement
`Annotator`.
"""

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
