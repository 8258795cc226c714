"""The strategies that stand alone, by name."""

from atgen_ray.selection.badge import BADGE
from atgen_ray.selection.bleuvar import BLEUVAR
from atgen_ray.selection.cocoa import COCOA
from atgen_ray.selection.contract import Strategy
from atgen_ray.selection.dual import DUAL
from atgen_ray.selection.ensp import ENSP
from atgen_ray.selection.entropy import ENTROPY
from atgen_ray.selection.facility_location import FACILITY_LOCATION
from atgen_ray.selection.fisher import FISHER
from atgen_ray.selection.graph_cut import GRAPH_CUT
from atgen_ray.selection.hadas import HADAS
from atgen_ray.selection.huds import HUDS
from atgen_ray.selection.idds import IDDS
from atgen_ray.selection.k_center import K_CENTER
from atgen_ray.selection.kmeans import KMEANS
from atgen_ray.selection.ld_cal import LD_CAL
from atgen_ray.selection.length import LENGTH
from atgen_ray.selection.margin import MARGIN
from atgen_ray.selection.max_token import MAX_TOKEN
from atgen_ray.selection.ngf_smp import NGF_SMP
from atgen_ray.selection.nsp import NSP
from atgen_ray.selection.self_consistency import SELF_CONSISTENCY
from atgen_ray.selection.semantic_entropy import SEMANTIC_ENTROPY
from atgen_ray.selection.task_diversity import TASK_DIVERSITY
from atgen_ray.selection.te_delfy import TE_DELFY
from atgen_ray.selection.typiclust import TYPICLUST
from atgen_ray.selection.uniform import RANDOM
from atgen_ray.selection.weighted_facility_location import WEIGHTED_FACILITY_LOCATION

_BASELINES = (RANDOM, LENGTH, K_CENTER, KMEANS, BADGE)
_UNCERTAINTY = (NSP, ENSP, ENTROPY, MARGIN, MAX_TOKEN, BLEUVAR, SEMANTIC_ENTROPY, SELF_CONSISTENCY, COCOA)
_DIVERSITY = (FACILITY_LOCATION, GRAPH_CUT, IDDS, TYPICLUST, FISHER, NGF_SMP)
_HYBRID = (HUDS, HADAS, TE_DELFY, DUAL, LD_CAL, WEIGHTED_FACILITY_LOCATION, TASK_DIVERSITY)

PLAIN: dict[str, Strategy] = {
    strategy.name: strategy for strategy in (*_BASELINES, *_UNCERTAINTY, *_DIVERSITY, *_HYBRID)
}
