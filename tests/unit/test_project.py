"""pyproject.toml, the locks, the changelog and the wheel."""

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.deployment import ROOT

PYPROJECT = ROOT / "pyproject.toml"
LOCKS = ("demo", "dev")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    table = tomllib.loads(PYPROJECT.read_text())["project"]
    assert isinstance(table, dict)
    return table


def requirements(project: dict[str, Any]) -> Iterator[Requirement]:
    yield from map(Requirement, project["dependencies"])
    for extra in project["optional-dependencies"].values():
        yield from map(Requirement, extra)


def pins(lock: str) -> dict[str, str]:
    """Name and version of everything in a lock."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    found = re.findall(r"^([a-z0-9.-]+)==(\S+)", text, re.MULTILINE)
    assert len(dict(found)) == len(found), "two versions of one package"
    return dict(found)


def test_every_upper_bound_says_why() -> None:
    for line in PYPROJECT.read_text().splitlines():
        requirement, _, comment = line.partition("#")
        if re.match(r'\s*"|.*= \["', requirement) and "<" in requirement:
            assert len(comment.split()) >= 3, f"no reason for the upper bound in: {line.strip()}"


def test_every_dependency_has_a_lower_bound(project: dict[str, Any]) -> None:
    for requirement in requirements(project):
        assert any(part.operator == ">=" for part in requirement.specifier), str(requirement)


def test_the_version_is_the_changelogs() -> None:
    version = tomllib.loads(PYPROJECT.read_text())["project"]["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if "dev" in version:
        assert headings[0] == "Unreleased"
    else:
        assert next(heading for heading in headings if heading != "Unreleased") == version


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_holds_what_the_package_asks_for(lock: str, project: dict[str, Any]) -> None:
    locked = pins(lock)
    for requirement in requirements(project):
        assert requirement.specifier.contains(locked[requirement.name]), str(requirement)


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_names_no_index_and_hashes_everything(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    for name in pins(lock):
        assert re.search(rf"^{re.escape(name)}==[^\n]*\\\n    --hash=sha256:", text, re.MULTILINE)


def test_what_is_tested_is_what_is_deployed() -> None:
    """Where a test tool forces another version upon the tests, it is named here."""
    allowed: set[str] = set()
    deployed, tested = pins("demo"), pins("dev")
    differing = {name for name in deployed if tested.get(name) != deployed[name]}
    assert differing <= allowed


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA")))
        scripts = archive.read(next(name for name in names if name.endswith("/entry_points.txt")))
    package = ROOT / "dash_dispatch"
    wanted = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("**/*.py", "lua/*.lua", "static/*.js", "py.typed")
        for path in package.glob(pattern)
    }
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert "dash_dispatch/py.typed" in names
    assert any(name.endswith(".lua") for name in names)
    assert any(name.endswith(".js") for name in names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert b"dash-dispatch = dash_dispatch.cli:main" in scripts
    assert b"License-Expression: MIT" in metadata


def test_ci_runs_the_documented_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert script.splitlines()[-1].startswith("exec make test")
    for path in (".ci/run", "scripts/system-deps", "scripts/venv"):
        assert (ROOT / path).stat().st_mode & 0o111 == 0o111, f"{path} is not executable"
