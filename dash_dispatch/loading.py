"""From a name to the user's app, and back.

`load_app` imports the app that a setting names. `describe_app` goes the other way: the name by
which a fresh process can import the app that is here.

A name, here called *spec*, is one of::

    module                 the attribute ``app`` of an importable module
    module:attribute       dotted attributes are followed
    module:factory()       the factory is called without arguments
    path/to/app.py:app     a file, imported as ``python path/to/app.py`` would see it
"""

import ast
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from traceback import walk_tb
from types import CodeType, FrameType, ModuleType
from weakref import WeakKeyDictionary

import dash

from dash_dispatch import bridge
from dash_dispatch.errors import ConfigError, DispatchError

DEFAULT_ATTRIBUTE = "app"

_loading: ContextVar[str | None] = ContextVar("dash_dispatch_loading", default=None)
"""The spec that `load_app` is importing right now."""

_loaded: WeakKeyDictionary[dash.Dash, str] = WeakKeyDictionary()
"""What `load_app` returned, and by which spec: a factory's app can be found in no module."""


def load_app(spec: str, setting: str = "DASH_DISPATCH_APP") -> dash.Dash:
    """Import the app that ``spec`` names.

    The current folder goes on ``sys.path``, as with uvicorn; for a file its own folder does, first,
    so that modules and data beside it are found as with ``python app.py``.

    Args:
        spec: See the module's docstring.
        setting: Where the spec came from, for messages.

    Raises:
        ConfigError: Nothing can be imported by that name, or it is no `dash_dispatch.Dash`. The
            message names the setting and, for an error in the user's code, its place.
    """
    target = _Target.parse(spec, setting)
    token = _loading.set(spec)
    try:
        app = _checked(target, _resolve(target, _import(target)))
    finally:
        _loading.reset(token)
    _loaded[app] = target.absolute
    return app


def refuse_while_loading() -> None:
    """For the top of ``app.run()``: a worker that imports the app must not serve it.

    Raises:
        ConfigError: `load_app` is importing the module that called ``app.run()``.
    """
    spec = _loading.get()
    if spec is not None:
        raise ConfigError(
            f"{spec}: importing it calls app.run(), which would start the app a second time;"
            " put app.run() under if __name__ == '__main__':"
        )


def is_users_file(path: str) -> bool:
    """Whether a source file is the user's: not Python's own, not ours, of no installed package."""
    parts = Path(path).parts
    return not (path.startswith(_NOT_USERS) or "site-packages" in parts or "dist-packages" in parts)


_NOT_USERS = (
    "<",
    *(sysconfig.get_path(kind) + os.sep for kind in ("stdlib", "platstdlib")),
    str(Path(__file__).parent) + os.sep,
)


# From the spec to the app


@dataclass(frozen=True)
class _Target:
    """A spec, taken apart."""

    spec: str
    setting: str
    module: str
    path: Path | None
    attribute: str
    is_call: bool

    @classmethod
    def parse(cls, spec: str, setting: str) -> "_Target":
        place, colon, attribute = spec.strip().rpartition(":")
        if not colon or "/" in attribute or "\\" in attribute:  # no attribute, or a drive's colon
            place, attribute = spec.strip(), DEFAULT_ATTRIBUTE
        is_call = attribute.endswith("()")
        attribute = attribute.removesuffix("()")
        is_path = place.endswith(".py") or "/" in place or "\\" in place
        names = attribute if is_path else f"{place}.{attribute}"
        if not place or not all(part.isidentifier() for part in names.split(".")):
            raise ConfigError(
                f"{setting}={spec}: takes module:attribute, module:factory()"
                " or path/to/app.py:attribute"
            )
        path = Path(place).absolute() if is_path else None
        return cls(spec, setting, path.stem if path else place, path, attribute, is_call)

    @property
    def absolute(self) -> str:
        """The same spec, good in any folder."""
        return f"{self.path or self.module}:{self.attribute}{'()' * self.is_call}"

    def error(self, text: str) -> ConfigError:
        return ConfigError(f"{self.setting}={self.spec}: {text}")


def _import(target: _Target) -> ModuleType:
    try:
        if target.path is not None:
            return _import_file(target, target.path)
        _put_first_on_path(Path.cwd(), move=False)
        return importlib.import_module(target.module)
    except DispatchError:
        raise  # already in words, about a setting or an app.run() that the user's code reached
    except ModuleNotFoundError as error:
        if error.name is not None and f"{target.module}.".startswith(f"{error.name}."):
            raise target.error(
                f"there is no module {error.name!r} (looked in {Path.cwd()} and on sys.path)"
            ) from error
        raise target.error(f"importing it failed{_told(error)}") from error
    except (Exception, SystemExit) as error:
        # Whatever the user's code raises while it is imported: they see its place and its words.
        raise target.error(f"importing it failed{_told(error)}") from error


def _import_file(target: _Target, path: Path) -> ModuleType:
    if not path.is_file():
        raise target.error(f"there is no file {path}")
    _put_first_on_path(path.parent, move=True)
    name = target.module
    known = sys.modules.get(name)
    if known is not None:
        if _file_of(known) == path.resolve():
            return known
        name += "_"  # the file is called like a module that is in use, and must not replace it
    made = importlib.util.spec_from_file_location(name, path)
    if made is None or made.loader is None:
        raise target.error(f"{path} is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(made)
    try:
        made.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # as Python's own import does: half a module must not be found later
        raise
    return module


def _put_first_on_path(folder: Path, *, move: bool) -> None:
    entry = str(folder)
    if entry in sys.path:
        if not move:
            return
        sys.path.remove(entry)
    sys.path.insert(0, entry)


def _resolve(target: _Target, module: ModuleType) -> object:
    found: object = module
    for name in target.attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise target.error(
                f"{module.__name__} has no attribute {target.attribute!r}{_others(module)}"
            ) from error
    return _made_by(target, found) if target.is_call else found


def _made_by(target: _Target, factory: object) -> object:
    if not callable(factory):
        raise target.error(f"{target.attribute} is a {_kind(factory)} and cannot be called")
    try:
        return factory()
    except DispatchError:
        raise
    except (Exception, SystemExit) as error:
        # The factory is the user's: whatever it raises, they see its place and its words.
        raise target.error(f"{target.attribute}() failed{_told(error)}") from error


def _checked(target: _Target, found: object) -> dash.Dash:
    # By name: this module serves workers too, and dash_dispatch.app is the web side's.
    if isinstance(found, dash.Dash):
        packages = {base.__module__.partition(".")[0] for base in type(found).__mro__}
        if "dash_dispatch" in packages:
            return found
        raise target.error(
            f"{target.attribute} is a plain dash.Dash; change the import to"
            " 'from dash_dispatch import Dash'"
        )
    if inspect.isfunction(found) and not target.is_call:
        raise target.error(
            f"{target.attribute} is a function; to call it, write {target.attribute}()"
        )
    hint = "; name the Dash object, not its server" if _kind(found) in ("Quart", "Flask") else ""
    raise target.error(f"{target.attribute} is a {_kind(found)}, no dash_dispatch.Dash{hint}")


def _kind(found: object) -> str:
    return type(found).__name__


def _others(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, dash.Dash)]
    return f"; its Dash objects: {', '.join(names)}" if names else "; it has no Dash object"


def _told(error: BaseException) -> str:
    place = _place(error)
    return f"{f' at {place}' if place else ''}: {type(error).__name__}: {error}"


def _place(error: BaseException) -> str | None:
    """``file:line`` of the deepest frame of the user's own code, else of the deepest frame."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    outside = [(file, line) for file, line in frames if file != __file__ and file[:1] != "<"]
    users = [(file, line) for file, line in outside if is_users_file(file)]
    best = users or outside
    return f"{best[-1][0]}:{best[-1][1]}" if best else None


# From the app to the spec


def describe_app(app: dash.Dash) -> str | None:
    """The spec by which a fresh process can import this app; None when none can. See `spec_of`."""
    try:
        return spec_of(app)
    except ConfigError:
        return None


def spec_of(app: dash.Dash) -> str:
    """The spec by which a fresh process can import this app with all its callbacks.

    The rule is on the safe side: in doubt, no. A fresh process can when all of this holds:

    1. The app is a module-level name of ``__main__`` (or of a module that ``__main__`` has
       imported by name), else of another module; and that module can be imported: it has a file,
       so not in a notebook or a REPL.
    2. The module binds the name outside of ``if __name__ == "__main__":``.
    3. The module's body is not in the middle of calling ``app.run()`` outside of such a block: a
       fresh import would run the app again.
    4. No offloaded callback was defined in such a block.
    5. No offloaded one was defined inside a function that is running now, in any thread: a test
       that adds callbacks to a module's app, and runs it. One that was defined inside a function
       which has returned is fine when importing the module calls that function: the module's body
       does so by name, or no function of that module or of the callback's is running, so that
       nothing but imports can have called it.

    Raises:
        ConfigError: None can; the message says why.
    """
    spec = _loaded.get(app)
    if spec is not None:
        _check_callbacks(_offloaded(app), None)
        return spec
    module, attribute = _home(app)
    spec = f"{_place_to_import(module)}:{attribute}"
    body = _Body.of(module)
    _check_body(body, attribute)
    _check_callbacks(_offloaded(app), body)
    return spec


def _home(app: dash.Dash) -> tuple[ModuleType, str]:
    """The module in whose namespace the app is, and its name there."""
    main = sys.modules.get("__main__")
    if main is not None:
        direct = _name_in(main, app)
        if direct is not None:
            return main, direct
        for name, value in list(vars(main).items()):
            inner = _name_in(value, app) if isinstance(value, ModuleType) else None
            if inner is not None and _is_users(main) and _is_users(value):
                return main, f"{name}.{inner}"
    own = sys.modules.get(app.config.name)
    users = [module for module in list(sys.modules.values()) if _is_users(module)]
    for module in [own, *users] if own else users:
        found = _name_in(module, app)
        if found is not None:
            return module, found
    raise ConfigError("the app is not a module-level name, so no other process can import it")


def _is_users(module: object) -> bool:
    # Dash keeps the app in a module of its own, too.
    file = getattr(module, "__file__", None)
    return isinstance(module, ModuleType) and isinstance(file, str) and is_users_file(file)


def _name_in(module: ModuleType, app: dash.Dash) -> str | None:
    names = [name for name, value in list(vars(module).items()) if value is app]
    if DEFAULT_ATTRIBUTE in names:
        return DEFAULT_ATTRIBUTE
    # IPython's _, __ and _12 hold the app too, and nobody else's process has them.
    return next((name for name in names if not name.startswith("_")), None)


def _place_to_import(module: ModuleType) -> str:
    """What a fresh process can import this module by: its name, or its file."""
    name = module.__name__
    if name == "__main__":
        spec = module.__spec__
        # python -m package.module; for a folder or a zip file the spec's name is __main__ too
        if spec is not None and spec.name != "__main__":
            return spec.name
    elif _is_findable(module):
        return name
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file() or "." in (module.__package__ or ""):
        raise ConfigError(f"the app's module {name} has no file that another process can import")
    return str(Path(file).absolute())


def _is_findable(module: ModuleType) -> bool:
    parent = sys.modules.get(module.__name__.rpartition(".")[0])
    found = PathFinder.find_spec(module.__name__, getattr(parent, "__path__", None))
    if found is None or found.origin is None:
        return False
    return Path(found.origin).resolve() == _file_of(module)


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file else None


@dataclass(frozen=True)
class _Body:
    """What a module's source says about importing it."""

    file: str
    names: frozenset[str] | None
    """Bound by an import; None when that cannot be known."""
    called: frozenset[str]
    """Functions that an import calls, by the last part of their name."""
    guarded: tuple[range, ...]
    """Lines under ``if __name__ == "__main__":``."""

    @classmethod
    def of(cls, module: ModuleType) -> "_Body":
        file = module.__file__ or ""
        try:
            tree = ast.parse(Path(file).read_bytes())
        except (OSError, SyntaxError, ValueError):
            return cls(file, None, frozenset(), ())
        guards = [node for node in tree.body if isinstance(node, ast.If) and _tests_name(node.test)]
        guarded = tuple(
            range(node.body[0].lineno, (node.body[-1].end_lineno or 0) + 1) for node in guards
        )
        imported = [
            part
            for statement in tree.body
            for part in _run_by_import(statement)
            if not any(getattr(part, "lineno", 0) in lines for lines in guarded)
        ]
        return cls(file, _bound(imported), _called(imported), guarded)

    def is_guarded(self, line: int) -> bool:
        """Whether a line is run by a script only, and not by an import."""
        return any(line in lines for lines in self.guarded)


def _tests_name(test: ast.expr) -> bool:
    return any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(test))


def _run_by_import(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, but not what stands inside functions."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and child in node.body:
            continue
        if not isinstance(node, ast.Lambda):
            yield from _run_by_import(child)


def _bound(nodes: list[ast.AST]) -> frozenset[str] | None:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
    return None if "*" in names else frozenset(names)


def _called(nodes: list[ast.AST]) -> frozenset[str]:
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    return frozenset(
        call.id if isinstance(call, ast.Name) else call.attr
        for call in calls
        if isinstance(call, (ast.Name, ast.Attribute))
    )


def _check_body(body: _Body, attribute: str) -> None:
    name = attribute.partition(".")[0]
    if body.names is not None and name not in body.names:
        raise ConfigError(
            f"importing {body.file} does not make {name!r}: it is made by a function, or under"
            " if __name__ == '__main__':"
        )
    for frame in _frames():
        code = frame.f_code
        is_body = code.co_name == "<module>" and code.co_filename == body.file
        if is_body and not body.is_guarded(frame.f_lineno):
            raise ConfigError(
                f"{body.file}:{frame.f_lineno}: app.run() is not under"
                " if __name__ == '__main__':, so importing the file would run the app again"
            )


def _check_callbacks(callbacks: list[CodeType], body: _Body | None) -> None:
    running = [frame.f_code for frame in _frames() if frame.f_code.co_name != "<module>"]
    for code in callbacks:
        place = f"{code.co_filename}:{code.co_firstlineno}: the callback {code.co_name}"
        if body and code.co_filename == body.file and body.is_guarded(code.co_firstlineno):
            raise ConfigError(f"{place} is defined under if __name__ == '__main__':")
        if not _is_made_again(code, running, body):
            raise ConfigError(f"{place} is defined inside a function that no import calls")


def _is_made_again(code: CodeType, running: list[CodeType], body: _Body | None) -> bool:
    """Whether importing the app's module defines this callback; False in doubt. Rule 5."""
    *outer, _ = code.co_qualname.split(".<locals>.")
    if not outer:
        return True
    makers = {".<locals>.".join(outer[: depth + 1]) for depth in range(len(outer))}
    if any(run.co_qualname in makers and run.co_filename == code.co_filename for run in running):
        return False
    if body is not None and outer[0].rpartition(".")[2] in body.called:
        return True
    files = {code.co_filename, body.file if body else code.co_filename}
    return not any(run.co_filename in files for run in running)


def _offloaded(app: dash.Dash) -> list[CodeType]:
    entries = [bridge.entry_of(app, output) for output in bridge.offloaded_of(app)]
    functions: list[Callable[..., object]] = [
        inspect.unwrap(entry["callback"]) for entry in entries if entry
    ]
    codes = [function.__code__ for function in functions if inspect.isfunction(function)]
    return [code for code in codes if is_users_file(code.co_filename)]


def _frames() -> Iterator[FrameType]:
    """Every frame of every thread: dash.testing calls ``app.run()`` in a thread of its own."""
    for top in sys._current_frames().values():  # noqa: SLF001 - documented, whatever its name
        frame: FrameType | None = top
        while frame is not None:
            yield frame
            frame = frame.f_back
