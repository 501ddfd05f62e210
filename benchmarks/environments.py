"""An environment per peer, as its users install it."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PEERS = HERE / "peers"
VENVS = HERE / ".venvs"
INSTALL_S = 600


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made or brought up to date first."""
    wanted = PEERS / peer / "requirements.txt"
    if not wanted.exists():
        return Path(sys.executable)
    venv = VENVS / peer
    python, stamp = venv / "bin" / "python", venv / "installed.txt"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted.read_text():
        return python
    print(f"making the environment of {peer} (once)", file=sys.stderr)
    _run(sys.executable, "-m", "venv", "--clear", str(venv))
    _run(
        str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "-r", str(wanted)
    )
    stamp.write_text(wanted.read_text())
    return python


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=INSTALL_S, stdin=subprocess.DEVNULL)
