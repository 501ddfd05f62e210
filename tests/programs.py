"""Programs that pip cannot install: a skip at a desk, a failure in CI."""

import os
import shutil

import pytest

_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def require_program(name: str) -> str:
    """The path of a program.

    Without it the test is skipped, or fails where ``CI`` is set. Debian keeps nginx in
    ``/usr/sbin``, which people who are not root have not on their ``PATH``.
    """
    path = shutil.which(name, path=_PATH)
    if path is None:
        missing = f"{name} is not installed (scripts/system-deps names the package)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return path
