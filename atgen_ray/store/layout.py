"""Names of files and folders in a run's folder."""

ATTEMPTS = "attempts"


def round_folder(round: int) -> str:
    """The folder of a round within the run's folder."""
    return f"rounds/{round:03d}"
