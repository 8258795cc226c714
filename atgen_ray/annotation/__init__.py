"""Annotators label query batches; `ANNOTATORS` names them."""

from atgen_ray.annotation.context import AnnotationContext, Annotator
from atgen_ray.annotation.registry import ANNOTATORS, build_annotator, check_annotators

__all__ = ["ANNOTATORS", "AnnotationContext", "Annotator", "build_annotator", "check_annotators"]
