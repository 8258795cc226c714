"""Names of files and folders within a run's folder."""

ATTEMPTS = "attempts"
PROVIDER_STATE = "provider.json"  # what the provider of the annotating model was last seen to do


def round_folder(round: int) -> str:
    """Return the folder of a round within the run's folder, such as `rounds/001`."""
    return f"rounds/{round:03d}"
