"""The package's own code: nothing in it turns bytes into code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dash_dispatch

PACKAGE = Path(dash_dispatch.__file__).parent

MODULES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib",
           "jsonpickle", "yaml", "ctypes", "code", "codeop"}  # fmt: skip
"""Whoever decodes with these lets those run code who wrote what is decoded."""

NAMES = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {"loads_unsafe", "load_unsafe", "unsafe_load", "full_load", "literal_eval_unsafe",
              "job_deserializer_unsafe"}  # fmt: skip

ALLOWED = {
    # Names of modules: the app's, from the settings; a component library's, as SECURITY.md says;
    # and the package's own, late.
    ("__init__.py", "import_module"),
    ("backend.py", "import_module"),
    ("bridge.py", "import_module"),
    ("loading.py", "import_module"),
    ("progress.py", "import_module"),
}
"""Where a name becomes a module, each with its reason."""


def used(tree: ast.AST) -> Iterator[str]:
    """Names of modules and functions by which bytes could become code."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.split(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module.split(".")[0]
                yield from (alias.name for alias in names)
            case ast.Call(func=ast.Name(id=name)):
                yield name
            case ast.Call(func=ast.Attribute(attr=name, value=value)):
                # `re.compile` makes no code.
                if not (name == "compile" and isinstance(value, ast.Name) and value.id == "re"):
                    yield name


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_nothing_makes_code_of_bytes(path: Path) -> None:
    tree = ast.parse(path.read_text())
    found = set(used(tree))
    assert not found & (MODULES | NAMES | ATTRIBUTES)
    if "import_module" in found:
        assert (path.name, "import_module") in ALLOWED


def test_the_search_finds_what_it_is_for() -> None:
    for text in (
        "import pickle",
        "from pickle import loads",
        "import marshal as m",
        "eval(x)",
        "builtins.exec(x)",
        "yaml.unsafe_load(x)",
    ):
        assert set(used(ast.parse(text))) & (MODULES | NAMES | ATTRIBUTES), text
    assert not set(used(ast.parse("re.compile(x)"))) & NAMES


def test_arq_is_given_no_pickle() -> None:
    """Its default, both ways; and its job records are not read by us at all."""
    from dash_dispatch import engine

    text = Path(engine.__file__).read_text()
    assert "job_deserializer" in text
    assert "job_serializer" in text


def test_no_frontend_script_makes_code_of_text() -> None:
    for path in (PACKAGE / "static").glob("*.js"):
        text = path.read_text()
        for word in ("eval(", "new Function", "innerHTML", "document.write", "importScripts("):
            assert word not in text, (path.name, word)
