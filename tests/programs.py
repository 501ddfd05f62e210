"""Programs that pip cannot install: a skip at a desk, a failure in CI."""

import os
import shutil

import pytest

_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def require_program(*names: str) -> str:
    """The path of a program, the first of these that is there.

    Without any the test is skipped, or fails where ``CI`` is set. Debian keeps nginx in
    ``/usr/sbin``, which people who are not root have not on their ``PATH``.
    """
    for name in names:
        if path := shutil.which(name, path=_PATH):
            return path
    missing = f"{names[0]} is not installed (scripts/system-deps names the package)"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


def require_chromium() -> str:
    """Chromium without a window: loads a page in half the time of the one that could have one."""
    return require_program("chromium-headless-shell", "chromium")
