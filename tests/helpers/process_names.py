"""What processes are called, those that end meanwhile too."""

import psutil


def read_command(process: psutil.Process) -> list[str]:
    """The words of a process' command line; empty once it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []
