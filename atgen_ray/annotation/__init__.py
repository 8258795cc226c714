"""Annotators label query batches; `ANNOTATORS` names them."""

from atgen_ray.annotation.registry import ANNOTATORS, build_annotator, check_annotators
from atgen_ray.annotation.site import Annotator, Site

__all__ = ["ANNOTATORS", "Annotator", "Site", "build_annotator", "check_annotators"]
