"""Finding the app by its name, and the name of an app."""

import runpy
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent

import dash
import pytest

from dash_dispatch import Dash
from dash_dispatch.errors import ConfigError
from dash_dispatch.loading import describe_app, load_app, refuse_while_loading, spec_of

APP = """
from dash import Input, Output, html
from dash_dispatch import Dash

app = Dash(__name__)
app.layout = html.Div(id="box")


@app.callback(Output("box", "children"), Input("box", "n_clicks"), offload=True)
def count(clicks):
    return clicks
"""

MADE_IN_A_FUNCTION = """
from dash import Input, Output, html
from dash_dispatch import Dash


def add_callbacks(app):
    @app.callback(Output("box", "children"), Input("box", "n_clicks"), offload=True)
    def count(clicks):
        return clicks


def create_app():
    app = Dash(__name__)
    app.layout = html.Div(id="box")
    add_callbacks(app)
    return app
"""

TELL = """
if __name__ == "__main__":
    from dash_dispatch.loading import spec_of
    spec = spec_of(app)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; what is imported from it is forgotten afterwards."""
    modules, path = dict(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    # Two files written within one second must not share a cached compilation.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.path[:] = path
    _forget(modules)


def _forget(modules: Mapping[str, object]) -> None:
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]


def _write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(source))
    return path


class TestFinds:
    @pytest.mark.parametrize("spec", ["shop:app", "shop", "shop.py:app", "./shop.py", "shop.py"])
    def test_an_attribute_of_a_module_or_file(self, folder: Path, spec: str) -> None:
        _write(folder / "shop.py", APP)
        app = load_app(spec)
        assert isinstance(app, Dash)
        assert app is sys.modules["shop"].app

    @pytest.mark.parametrize("spec", ["shop:create_app()", "shop.py:create_app()"])
    def test_what_a_factory_makes(self, folder: Path, spec: str) -> None:
        _write(folder / "shop.py", MADE_IN_A_FUNCTION)
        assert load_app(spec).config.name == "shop"

    def test_a_module_of_a_package_and_a_dotted_attribute(self, folder: Path) -> None:
        _write(folder / "pack" / "__init__.py", "")
        _write(folder / "pack" / "shop.py", APP + "class Site:\n    main = app\n")
        assert load_app("pack.shop:Site.main") is load_app("pack.shop")

    def test_a_file_in_another_folder_with_what_lies_beside_it(self, folder: Path) -> None:
        _write(folder / "far" / "beside.py", "title = 'Beside'")
        _write(folder / "far" / "shop.py", "import beside\n" + APP + "app.title = beside.title\n")
        assert load_app("far/shop.py").title == "Beside"
        assert sys.path[0] == str(folder / "far")

    def test_a_file_called_like_a_module_in_use_beside_that_module(self, folder: Path) -> None:
        _write(folder / "textwrap.py", APP)
        before = sys.modules["textwrap"]
        assert isinstance(load_app("textwrap.py"), Dash)
        assert sys.modules["textwrap"] is before

    def test_the_same_object_the_second_time(self, folder: Path) -> None:
        _write(folder / "shop.py", APP)
        assert load_app("shop.py") is load_app("shop.py")


class TestSaysWhatIsWrong:
    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ("nowhere", "there is no module 'nowhere'"),
            ("nowhere.deep:app", "there is no module 'nowhere'"),
            ("pack.nowhere:app", "there is no module 'pack.nowhere'"),
            ("nowhere.py", "there is no file .*nowhere.py"),
            ("shop:nothing", "shop has no attribute 'nothing'; its Dash objects: app$"),
            ("empty", "empty has no attribute 'app'; it has no Dash object"),
            ("shop:count()", "count\\(\\) failed"),
            ("shop:count", "count is a function; to call it, write count\\(\\)"),
            ("shop:server", "server is a Quart.*name the Dash object, not its server"),
            ("shop:number", "number is a int, no dash_dispatch.Dash"),
            ("shop:number()", "number is a int and cannot be called"),
            ("plain", "app is a plain dash.Dash; change the import to 'from dash_dispatch import"),
            ("shop:", "takes module:attribute"),
            ("shop:a b", "takes module:attribute"),
            (":app", "takes module:attribute"),
            ("", "takes module:attribute"),
        ],
    )
    def test_and_names_the_setting(self, folder: Path, spec: str, words: str) -> None:
        _write(folder / "shop.py", APP + "server = app.server\nnumber = 3\n")
        _write(folder / "plain.py", "import dash\napp = dash.Dash(__name__)\n")
        _write(folder / "empty.py", "")
        _write(folder / "pack" / "__init__.py", "")
        with pytest.raises(ConfigError, match=words) as raised:
            load_app(spec)
        assert str(raised.value).startswith(f"DASH_DISPATCH_APP={spec}: ")

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("import no_such_thing", "shop.py:1: ModuleNotFoundError: No module named 'no_such"),
            ("\n1 / 0", "shop.py:2: ZeroDivisionError: division by zero"),
            ("\n\nx = = 1", "shop.py:3: SyntaxError: invalid syntax"),
            ("import sys\nsys.exit(3)", "shop.py:2: SystemExit: 3"),
            # The line that is theirs, not the one of the library that it called.
            ("import json\njson.loads('{')", "shop.py:2: JSONDecodeError: "),
        ],
    )
    @pytest.mark.parametrize("spec", ["shop:app", "shop.py:app"])
    def test_an_error_inside_the_module_with_its_place(
        self, folder: Path, source: str, words: str, spec: str
    ) -> None:
        _write(folder / "shop.py", source)
        with pytest.raises(ConfigError, match=f"importing it failed at .*{words}"):
            load_app(spec)
        assert "shop" not in sys.modules

    def test_an_error_inside_a_factory_with_its_place(self, folder: Path) -> None:
        _write(folder / "shop.py", "def create():\n    raise ValueError('no database')\n")
        with pytest.raises(
            ConfigError, match=r"create\(\) failed at .*shop.py:2: ValueError: no database"
        ):
            load_app("shop:create()")

    def test_with_the_name_that_the_caller_gives_the_setting(self) -> None:
        with pytest.raises(ConfigError, match=r"^APP=nowhere: "):
            load_app("nowhere", "APP")

    def test_a_run_that_importing_reaches(self, folder: Path) -> None:
        refuse_while_loading()  # says nothing when nobody is loading
        _write(
            folder / "shop.py",
            "from dash_dispatch.loading import refuse_while_loading\nrefuse_while_loading()\n",
        )
        with pytest.raises(ConfigError, match=r"shop:app: .*put app.run\(\) under if __name__"):
            load_app("shop:app")
        refuse_while_loading()


def _run(script: Path) -> str:
    """Run a script as ``python script.py`` does; what it calls ``spec``."""
    spec = runpy.run_path(str(script), run_name="__main__")["spec"]
    assert isinstance(spec, str)
    return spec


class TestDescribes:
    """A spec is only right when a fresh import by it has the same callbacks."""

    @pytest.mark.parametrize(
        "source",
        [
            APP + TELL,
            MADE_IN_A_FUNCTION + "app = create_app()\n" + TELL,
            # The function that defines the callbacks is called by the module's body, and some
            # function of the module runs: it is not the one.
            MADE_IN_A_FUNCTION
            + "app = Dash(__name__)\napp.layout = html.Div()\nadd_callbacks(app)\n"
            + "def main():\n    global spec\n    from dash_dispatch.loading import spec_of\n"
            + "    spec = spec_of(app)\n\n\nif __name__ == '__main__':\n    main()\n",
        ],
        ids=["plain", "factory", "callbacks by a function"],
    )
    def test_a_script(self, folder: Path, source: str) -> None:
        script = _write(folder / "shop.py", source)
        modules = dict(sys.modules)
        spec = _run(script)
        _forget(modules)
        assert spec == f"{script}:app"
        assert [*load_app(spec).callback_map] == ["box.children"]

    def test_a_script_whose_app_is_in_another_module(self, folder: Path) -> None:
        _write(folder / "shop.py", APP)
        sys.path.insert(0, str(folder))
        script = _write(folder / "start.py", "import shop\n" + TELL.replace("(app)", "(shop.app)"))
        assert _run(script) == f"{script}:shop.app"

    def test_a_module_run_as_a_script(self, folder: Path) -> None:
        _write(folder / "pack" / "__init__.py", "")
        _write(folder / "pack" / "shop.py", APP + TELL)
        sys.path.insert(0, str(folder))
        found = runpy.run_module("pack.shop", run_name="__main__", alter_sys=True)
        assert found["spec"] == "pack.shop:app"

    def test_an_imported_module(self, folder: Path) -> None:
        _write(folder / "pack" / "__init__.py", "")
        _write(folder / "pack" / "shop.py", APP)
        sys.path.insert(0, str(folder))
        import pack.shop  # type: ignore[import-not-found]

        assert describe_app(pack.shop.app) == "pack.shop:app"

    def test_what_was_loaded_by_the_spec_it_was_loaded_by(self, folder: Path) -> None:
        _write(folder / "shop.py", MADE_IN_A_FUNCTION)
        assert describe_app(load_app("shop.py:create_app()")) == f"{folder}/shop.py:create_app()"


class TestDoesNotDescribe:
    def test_an_app_made_inside_a_function(self) -> None:
        app = Dash("here")
        assert describe_app(app) is None
        with pytest.raises(ConfigError, match="not a module-level name"):
            spec_of(app)

    def test_an_app_of_a_notebook(self) -> None:
        with pytest.raises(ConfigError, match="__main__ has no file"):
            _exec_as_main(APP + TELL)

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            (
                "from dash_dispatch import Dash\nif __name__ == '__main__':\n"
                "    from dash_dispatch.loading import spec_of\n"
                "    app = Dash(__name__)\n    spec = spec_of(app)\n",
                "importing .*shop.py does not make 'app'",
            ),
            (
                "from dash_dispatch import Dash\nfrom dash_dispatch.loading import spec_of\n"
                "app = Dash(__name__)\nspec = spec_of(app)\n",
                "shop.py:4: app.run\\(\\) is not under if __name__",
            ),
            (
                APP
                + "if __name__ == '__main__':\n"
                + "    from dash_dispatch.loading import spec_of\n"
                + "    @app.callback(Output('a', 'b'), Input('c', 'd'), offload=True)\n"
                + "    def late(value):\n        return value\n"
                + "    spec = spec_of(app)\n",
                "the callback late is defined under if __name__",
            ),
            (
                MADE_IN_A_FUNCTION
                + "app = Dash(__name__)\n"
                + "def main():\n    from dash_dispatch.loading import spec_of\n"
                + "    add_callbacks(app)\n    spec_of(app)\n\n\n"
                + "if __name__ == '__main__':\n    main()\n",
                "the callback count is defined inside a function that no import calls",
            ),
        ],
        ids=["app of the script only", "unguarded", "late", "late in a function"],
    )
    def test_a_script_that_cannot_be_imported_again(
        self, folder: Path, source: str, words: str
    ) -> None:
        script = _write(folder / "shop.py", source)
        with pytest.raises(ConfigError, match=words):
            _run(script)

    @pytest.mark.parametrize("in_thread", [False, True])
    def test_callbacks_that_a_running_function_added(self, folder: Path, in_thread: bool) -> None:
        app = _shop(folder)
        assert describe_app(app) == "shop:app"

        @app.callback(dash.Output("a", "b"), dash.Input("c", "d"), offload=True)
        def added(value: object) -> object:
            return value

        found: list[str | None] = []
        if in_thread:
            thread = threading.Thread(target=lambda: found.append(describe_app(app)))
            thread.start()
            thread.join()
        else:
            found.append(describe_app(app))
        assert found == [None]

    def test_only_offloaded_callbacks_count(self, folder: Path) -> None:
        app = _shop(folder)

        @app.callback(dash.Output("a", "b"), dash.Input("c", "d"))
        def added(value: object) -> object:
            return value

        assert describe_app(app) == "shop:app"


def _shop(folder: Path) -> Dash:
    _write(folder / "shop.py", APP)
    sys.path.insert(0, str(folder))
    import shop  # type: ignore[import-not-found]

    app = shop.app
    assert isinstance(app, Dash)
    return app


def _exec_as_main(source: str) -> None:
    main = type(sys)("__main__")
    before = sys.modules["__main__"]
    sys.modules["__main__"] = main
    try:
        exec(compile(source, "<cell>", "exec"), vars(main))
    finally:
        sys.modules["__main__"] = before
