"""Where and with what a row ran, kept beside its numbers."""

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("arq", "dash", "dash-dispatch", "hypercorn", "quart", "redis")


def describe() -> dict[str, Any]:
    """Machine and versions. Peers' versions are in their requirements."""
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "revision": _output("git", "describe", "--always", "--dirty"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "redis-server": _output("redis-server", "--version").split(" sha=")[0],
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "load_before": list(os.getloadavg()),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _output(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            cwd=Path(__file__).parent,
        )
    except OSError:
        return ""
    return done.stdout.strip()
