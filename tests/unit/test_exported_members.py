"""What ``import dash_dispatch`` gives, and what it leaves alone."""

import ast
import inspect
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import dash_dispatch

PACKAGE = Path(str(dash_dispatch.__file__)).parent


def test_all_is_sorted() -> None:
    assert dash_dispatch.__all__ == sorted(dash_dispatch.__all__)


def test_all_is_complete() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)  # some stand under TYPE_CHECKING
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dash_dispatch")
        for alias in node.names
    }
    assert imported == set(dash_dispatch.__all__)


@pytest.mark.parametrize("name", dash_dispatch.__all__)
def test_a_public_name_has_a_contract(name: str) -> None:
    member = getattr(dash_dispatch, name)
    doc = inspect.getdoc(member) or ""
    assert len(doc.split()) >= 3, name
    if not inspect.isclass(member):
        return
    for attribute, value in vars(member).items():
        if callable(value) and not attribute.startswith("_"):
            assert inspect.getdoc(value), f"{name}.{attribute}"


@pytest.mark.parametrize("name", dash_dispatch.__all__)
def test_a_public_name_does_not_hide_where_it_is_from(name: str) -> None:
    assert getattr(dash_dispatch, name).__module__.startswith("dash_dispatch.")


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'wroker'"):
        _ = dash_dispatch.wroker


def test_type_checkers_are_told_that_there_are_types() -> None:
    assert resources.files("dash_dispatch").joinpath("py.typed").is_file()


def loaded_by(*statements: str) -> set[str]:
    script = "\n".join([*statements, "import sys", "print(*sorted(sys.modules))"])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_the_import_brings_little_that_dash_does_not() -> None:
    names = ", ".join(name for name in dash_dispatch.__all__ if name != "Settings")

    beyond = loaded_by(f"from dash_dispatch import {names}") - loaded_by("from dash import Dash")

    assert {name.split(".")[0].lstrip("_") for name in beyond} == {
        "dash_dispatch",
        "msgspec",
        "orjson",
    }


def test_a_name_that_is_loaded_late_is_listed() -> None:
    assert set(dash_dispatch.__all__) <= set(dir(dash_dispatch))


def test_the_web_side_loads_nothing_of_the_worker_side() -> None:
    loaded = loaded_by("from dash_dispatch import Dash", "Dash('app')")
    assert "dash_dispatch.server" in loaded
    unwanted = {
        "arq",
        "watchfiles",
        "dash_dispatch.child",
        "dash_dispatch.cli",
        "dash_dispatch.embedded",
        "dash_dispatch.engine",
        "dash_dispatch.execution",
        "dash_dispatch.processes",
        "dash_dispatch.worker",
    }
    assert not loaded & unwanted
