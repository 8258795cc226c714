"""Doctor: the journal of runs held against their storage and their ledger.

`examine` only reads. `repair` mends what cannot be wrong to mend: it finishes moving what the
journal names, moves what nobody names to the run's `.trash`, and recomputes totals. Nothing that
was paid or labelled is ever removed.
"""

from atgen_ray.runs.doctor.examination import examine
from atgen_ray.runs.doctor.finding import Diagnosis, Finding
from atgen_ray.runs.doctor.repair import repair

__all__ = ["Diagnosis", "Finding", "examine", "repair"]
