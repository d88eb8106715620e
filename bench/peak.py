"""The most memory that a process has had."""

from pathlib import Path


def peak_mebibytes() -> float:
    """Of this process (MiB). Not ``ru_maxrss``: that of a child begins with what its parent had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM")
