"""Strategies that work alone, by name: all but `ensemble`, which combines them."""

from atgen_ray.core.plugins import Registry
from atgen_ray.selection.strategies.badge import BADGE
from atgen_ray.selection.strategies.baselines import LENGTH, RANDOM
from atgen_ray.selection.strategies.dual import DUAL
from atgen_ray.selection.strategies.facility_location import (
    FACILITY_LOCATION,
    WEIGHTED_FACILITY_LOCATION,
)
from atgen_ray.selection.strategies.fisher import FISHER
from atgen_ray.selection.strategies.graph_cut import GRAPH_CUT
from atgen_ray.selection.strategies.hadas import HADAS
from atgen_ray.selection.strategies.huds import HUDS
from atgen_ray.selection.strategies.idds import IDDS
from atgen_ray.selection.strategies.k_center import K_CENTER
from atgen_ray.selection.strategies.kmeans import KMEANS
from atgen_ray.selection.strategies.ld_cal import LD_CAL
from atgen_ray.selection.strategies.ngf_smp import NGF_SMP
from atgen_ray.selection.strategies.sample_uncertainty import (
    BLEUVAR,
    COCOA,
    ENSP,
    SELF_CONSISTENCY,
    SEMANTIC_ENTROPY,
)
from atgen_ray.selection.strategies.targeted import RDS_PLUS, TARGETED_FACILITY_LOCATION
from atgen_ray.selection.strategies.task_diversity import TASK_DIVERSITY
from atgen_ray.selection.strategies.te_delfy import TE_DELFY
from atgen_ray.selection.strategies.token_uncertainty import ENTROPY, MARGIN, MAX_TOKEN, NSP
from atgen_ray.selection.strategies.typiclust import TYPICLUST
from atgen_ray.selection.strategy import Strategy, find_fault

_BASELINES = (RANDOM, LENGTH, K_CENTER, KMEANS, BADGE)
_UNCERTAINTY = (
    NSP,
    ENSP,
    ENTROPY,
    MARGIN,
    MAX_TOKEN,
    BLEUVAR,
    SEMANTIC_ENTROPY,
    SELF_CONSISTENCY,
    COCOA,
)
_DIVERSITY = (FACILITY_LOCATION, GRAPH_CUT, IDDS, TYPICLUST, FISHER, NGF_SMP)
_HYBRID = (HUDS, HADAS, TE_DELFY, DUAL, LD_CAL, WEIGHTED_FACILITY_LOCATION, TASK_DIVERSITY)
_TARGETED = (TARGETED_FACILITY_LOCATION, RDS_PLUS)

PLAIN: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (*_BASELINES, *_UNCERTAINTY, *_DIVERSITY, *_HYBRID, *_TARGETED)
}
GROUP = "atgen_ray.strategies"
# Those that can vote in the ensemble, which itself cannot.
MEMBERS = Registry(GROUP, "strategy", PLAIN, find_fault, reserved=["ensemble"])
