"""What the deployment files say, for the tests that read them and for those that run it.

`command` gives exactly what compose would run; `proxy_config` gives the proxy's own configuration
with nothing changed but addresses and folders.
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
COMPOSE_FILE = ROOT / "compose.yaml"
DOCKERFILE = ROOT / "worker" / "Dockerfile"
NGINX_FILE = ROOT / "deploy" / "nginx.conf"

Tree = dict[str, Any]

_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<word>[^}]*))?\}|(?P<other>.?))"
)


class MissingVariableError(Exception):
    """Compose would refuse to start: a required variable is not set."""


def interpolate(text: str, environment: Mapping[str, str]) -> str:
    """Replace ``${NAME}``, ``${NAME:-default}``, ``${NAME:?message}`` and ``$$`` as compose does.

    Raises:
        MissingVariableError: A variable that must be set is not.
        ValueError: Another form of variable, which the files are not meant to use.
    """

    def replace(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        if match["name"] is None:
            raise ValueError(f"write $$ or a braced variable: {text!r}")
        value = environment.get(match["name"], "")
        if value or match["how"] is None:
            return value
        if match["how"] == ":?":
            raise MissingVariableError(f"{match['name']}: {match['word']}")
        return str(match["word"])

    return _VARIABLE.sub(replace, text)


def _resolve(value: object, environment: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return interpolate(value, environment)
    if isinstance(value, dict):
        return {str(key): _resolve(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, environment) for item in value]
    return value


def raw_compose() -> Tree:
    """``compose.yaml`` with its anchors followed and its variables as they are written."""
    tree = YAML(typ="safe", pure=True).load(COMPOSE_FILE)
    assert isinstance(tree, dict)
    return tree


def compose(environment: Mapping[str, str]) -> Tree:
    """``compose.yaml`` as compose would see it with these environment variables."""
    tree = _resolve(raw_compose(), environment)
    assert isinstance(tree, dict)
    return tree


def service(name: str, environment: Mapping[str, str]) -> Tree:
    """One service of `compose`."""
    found = compose(environment)["services"][name]
    assert isinstance(found, dict)
    return found


def command(name: str, environment: Mapping[str, str]) -> list[str]:
    """The words that a service's container runs: ``web``, ``worker``, ``redis`` or ``proxy``."""
    words = service(name, environment)["command"]
    assert isinstance(words, list)
    return [str(word) for word in words]


def health_command(name: str, environment: Mapping[str, str]) -> list[str]:
    """The words of a service's health check."""
    kind, *words = service(name, environment)["healthcheck"]["test"]
    if kind == "CMD-SHELL":
        return ["sh", "-c", *words]
    assert kind == "CMD"
    return [str(word) for word in words]


def proxy_config(*, listen: str, web: str, folder: Path) -> str:
    """The proxy's configuration for a machine without containers.

    Args:
        listen: What the proxy listens on: ``127.0.0.1:8050``, or ``unix:/path``.
        web: ``host:port`` of the web process.
        folder: Where the temporary files, the pid and the log go.
    """
    text = NGINX_FILE.read_text()
    for old, new in (
        ("/tmp/", f"{folder}/"),
        ("listen 8080;", f"listen {listen};"),
        ("set $web web:8000;", f"set $web {web};"),
        ("/dev/stderr", "stderr"),
        ("/dev/stdout", f"{folder}/access.log"),
    ):
        assert old in text, f"{NGINX_FILE.name} no longer has {old!r}"
        text = text.replace(old, new)
    # As root nginx would change to "nobody", who may not enter a test's folder.
    return f"user root;\n{text}" if os.geteuid() == 0 else text


def dockerfile() -> Iterator[tuple[str, str]]:
    """The instructions of the Dockerfile: ``("COPY", "a b /c")``, lines joined, comments gone."""
    lines = (line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#"))
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            instruction, _, rest = line.strip().partition(" ")
            yield instruction.upper(), rest.strip()


def copied() -> Iterator[tuple[str | None, list[str]]]:
    """The stage (or ``None``: the build context) and the sources of every ``COPY``."""
    for instruction, rest in dockerfile():
        if instruction == "COPY":
            options = [word for word in shlex.split(rest) if word.startswith("--")]
            sources = [word for word in shlex.split(rest) if not word.startswith("--")][:-1]
            stages = [word.removeprefix("--from=") for word in options if "--from=" in word]
            yield (stages[0] if stages else None), sources


def seconds(duration: str) -> float:
    """Compose's ``45s`` or ``1m30s`` in seconds."""
    unit_s = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    parts = re.findall(r"(\d+)(ms|s|m|h)", duration)
    assert "".join(number + unit for number, unit in parts) == duration
    return sum(int(number) * unit_s[unit] for number, unit in parts)


def bytes_of(size: str) -> int:
    """``17m`` or ``768mb`` in bytes."""
    match = re.fullmatch(r"(\d+)([kmg]?)b?", size.lower())
    assert match is not None
    return int(match[1]) << 10 * " kmg".index(match[2] or " ")
