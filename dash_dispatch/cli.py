"""``dash-dispatch``: run an app, run workers, look at the settings, find out what is wrong."""

import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import Any

import click
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from dash_dispatch import bridge, connection
from dash_dispatch.config import PREFIX, Settings
from dash_dispatch.embedded import find_redis_server
from dash_dispatch.errors import ConfigError, DispatchError, StoreError
from dash_dispatch.loading import load_app

_PING_TIMEOUT_S = 3.0

_APP_HELP = """\b
APP is one of
  module:attribute
  module:factory()
  path/to/app.py:attribute
The attribute is "app" unless given."""


class _Group(click.Group):
    """Our errors are for people: shown without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DispatchError as error:
            raise click.ClickException(str(error)) from error


def _versions() -> str:
    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:  # run from a checkout that is not installed
            return "(not installed)"

    others = ", ".join(f"{package} {of(package)}" for package in ("dash", "quart", "arq", "redis"))
    return f"dash-dispatch {of('dash-dispatch')} ({others}, Python {platform.python_version()})"


def _show_version(context: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        click.echo(_versions())
        context.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the versions of this and of what it builds on.",
)
def main() -> None:
    """Distributed callbacks for Plotly Dash."""


@main.command(help=f"Serve an app for development.\n\n{_APP_HELP}")
@click.argument("app")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8050, show_default=True, type=click.IntRange(1, 65_535))
@click.option("--debug", is_flag=True, help="Dev tools; the worker restarts when the code changes.")
def run(app: str, host: str, port: int, debug: bool) -> None:
    """Serve an app for development."""
    load_app(app, "APP").run(host=host, port=str(port), debug=debug)


@main.command(
    help=f"Run a worker: arq dash_dispatch.worker, with these settings.\n\n{_APP_HELP}\n\n"
    "Options win over the environment; `dash-dispatch settings` lists all there is to set."
)
@click.argument("app", envvar=f"{PREFIX}APP")
@click.option("--queues", help="Queues to serve, comma separated.")
@click.option("--concurrency", type=int, help="Calls to run at once.")
@click.option("--processes", type=int, help="Warm processes for plain def callbacks.")
@click.option(
    "--redis-url",
    help="As on the web side. With a password in it better set the variable: all users of the"
    " machine can read a command's arguments.",
)
def worker(app: str, **options: str | int | None) -> None:
    """Become an arq worker."""
    given = {name: value for name, value in {"app": app, **options}.items() if value is not None}
    settings = Settings.read(**given)
    if settings.redis_url is None:
        raise ConfigError(f"{PREFIX}REDIS_URL is not set: a worker needs it, or --redis-url")
    environment = {f"{PREFIX}{name.upper()}": str(value) for name, value in given.items()}
    sys.stdout.flush()
    command = [sys.executable, "-P", "-m", "arq", "dash_dispatch.worker"]
    # In place of this process, so that signals and the exit code are the worker's.
    os.execve(sys.executable, command, {**os.environ, **environment})  # noqa: S606


@main.command()
def settings() -> None:
    """List every setting: its variable, its default, its value now, and what it means.

    Secrets are masked. An asterisk marks what is set.
    """
    current = Settings.read()
    width = shutil.get_terminal_size().columns
    for name, field in Settings.model_fields.items():
        if name == "embedded_app":
            continue  # not for people
        mark = "*" if name in current.model_fields_set else " "
        default = "none" if field.default in (None, PydanticUndefined) else _shown(field.default)
        value = _value(current, name)
        now = f"  now {value}" if name in current.model_fields_set else ""
        click.echo(
            f"{mark} {click.style(PREFIX + name.upper(), bold=True)}  default {default}{now}"
        )
        click.echo(textwrap.indent(textwrap.fill(field.description or "", width - 4), "    "))
    for name in _unknown():
        click.secho(f"! {name} is set, but is no setting", fg="yellow")


def _value(current: Settings, name: str) -> str:
    return current.display_url if name == "redis_url" else _shown(getattr(current, name))


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return "***"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _unknown() -> list[str]:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    return sorted(
        name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known
    )


@main.command(help=f"Check that all is in place; exit code 1 if not.\n\n{_APP_HELP}")
@click.argument("app", required=False, envvar=f"{PREFIX}APP")
@click.pass_context
def doctor(context: click.Context, app: str | None) -> None:
    """Check that all is in place."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("versions", _versions),
        ("settings", _check_settings),
        ("Redis", _check_redis),
        ("app", lambda: _check_app(app)),
    ]
    results = [_report(name, check) for name, check in checks]
    context.exit(0 if all(results) else 1)


def _report(name: str, check: Callable[[], str]) -> bool:
    try:
        text = check()
    except DispatchError as error:
        click.echo(f"{click.style('FAIL', fg='red', bold=True)}  {name}: {error}")
        return False
    click.echo(f"{click.style('ok', fg='green')}    {name}: {text}")
    return True


def _check_settings() -> str:
    current = Settings.read()
    unknown = _unknown()
    if unknown:
        raise ConfigError(f"no such setting: {', '.join(unknown)} (dash-dispatch settings)")
    names = [PREFIX + name.upper() for name in sorted(current.model_fields_set)]
    return ", ".join(names) if names else "all at their defaults"


def _check_redis() -> str:
    current = Settings.read()
    if current.redis_url is None:
        return f"no {PREFIX}REDIS_URL; app.run() starts its own, {find_redis_server()}"
    began = perf_counter()
    try:
        found = connection.ping(current.redis_url.get_secret_value(), _PING_TIMEOUT_S)
    except StoreError as error:
        raise type(error)(f"{current.display_url}: {error}") from error
    took_ms = 1000 * (perf_counter() - began)
    return f"{found} at {current.display_url}, {took_ms:.1f} ms to connect and ask"


def _check_app(spec: str | None) -> str:
    if spec is None:
        return f"none given, as an argument or in {PREFIX}APP"
    app = load_app(spec, "APP")
    bridge.ready(app)
    offloaded = bridge.offloaded_of(app)
    queues = sorted({each.options.queue for each in offloaded.values()})
    where = f", in the queues {', '.join(queues)}" if queues else ""
    return f"{spec}: {len(app.callback_map)} callbacks, {len(offloaded)} of them offloaded{where}"
