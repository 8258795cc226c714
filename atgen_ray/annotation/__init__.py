"""Annotators label query batches; `ANNOTATORS` names them."""

from atgen_ray.annotation.context import Annotator, Site
from atgen_ray.annotation.registry import ANNOTATORS, build_annotator, check_annotators

__all__ = ["ANNOTATORS", "Annotator", "Site", "build_annotator", "check_annotators"]
