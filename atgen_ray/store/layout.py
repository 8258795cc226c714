"""Names of files and folders within a run's folder."""

ATTEMPTS = "attempts"
PROVIDER_STATE = "provider.json"  # what the provider of the annotating model was last seen to do
# The audit: what may be drawn, with groups; the first draw; both draws.
AUDIT_FRAME = "audit/frame.parquet"
AUDIT_FIRST = "audit/first.parquet"
AUDIT_SAMPLE = "audit/sample.parquet"
AUDIT_MODELS = "audit/models.json"  # what `atgen-ray evaluate` found


def round_folder(round: int) -> str:
    """Return the folder of a round within the run's folder, such as `rounds/001`."""
    return f"rounds/{round:03d}"


START = "adapter"  # step of round 0 that copies model.adapter
START_ADAPTER = f"{round_folder(0)}/adapter"


RIVALS = "rivals.json"  # the rivals of the tuned model, and whether tuning was worth it
# Of a rival of the tuned model: its folder has these files. Deletion finds rows of examples by the
# name of the first.
RIVAL_ROWS = "predictions.jsonl"
RIVAL_FACTS = "rival.json"


def rivals_folder(round: int) -> str:
    """Return the folder of the rivals that were scored after `round`, one folder each."""
    return f"{round_folder(round)}/rivals"
