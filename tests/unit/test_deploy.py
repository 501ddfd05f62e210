"""compose.yaml, worker/ and deploy/: valid, and agreeing with each other and with the settings."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dash_dispatch.config import PREFIX, Settings
from tests import deployment
from tests.deployment import ROOT, MissingVariableError
from tests.programs import require_program

ENVIRONMENT = {"REDIS_PASSWORD": "a-password-for-redis", "DASH_DISPATCH_SECRET_KEY": "k" * 32}
SERVICES = ("proxy", "web", "worker", "redis")
APP_SERVICES = ("web", "worker")


def settings_of(service: str) -> dict[str, str]:
    environment = deployment.service(service, ENVIRONMENT)["environment"]
    return {name: value for name, value in environment.items() if name.startswith(PREFIX)}


def test_compose_file_follows_the_specification() -> None:
    schema = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", str(deployment.COMPOSE_FILE)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert schema.returncode == 0, schema.stdout + schema.stderr


def test_the_schema_would_notice_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    text = deployment.COMPOSE_FILE.read_text()
    wrong.write_text(text.replace("stop_grace_period:", "stop_grace_perod:"))
    schema = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", str(wrong)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert schema.returncode == 1
    assert "stop_grace_perod" in schema.stdout


def test_the_services() -> None:
    assert set(deployment.compose(ENVIRONMENT)["services"]) == set(SERVICES)


@pytest.mark.parametrize("secret", sorted(ENVIRONMENT))
def test_compose_does_not_start_without_a_secret(secret: str) -> None:
    for environment in (
        {name: value for name, value in ENVIRONMENT.items() if name != secret},
        ENVIRONMENT | {secret: ""},
    ):
        with pytest.raises(MissingVariableError, match=secret):
            deployment.compose(environment)


def test_no_secret_stands_in_the_files() -> None:
    """Every value whose name sounds secret is a required variable, and so is a URL's password."""
    for name, service in deployment.raw_compose()["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|KEY", variable):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), (name, variable)
            if variable.endswith("_URL"):
                assert re.search(r"://:\$\{\w+:\?[^}]+\}@", value), (name, variable)
    for instruction, rest in deployment.dockerfile():
        if instruction in {"ARG", "ENV"}:
            assert not re.search("PASSWORD|SECRET|TOKEN", rest)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_health_check_a_restart_policy_and_a_limit(name: str) -> None:
    service = deployment.service(name, ENVIRONMENT)
    check = service["healthcheck"]
    assert deployment.seconds(check["timeout"]) <= deployment.seconds(check["interval"])
    assert service["restart"] == "unless-stopped"
    assert deployment.bytes_of(service["deploy"]["resources"]["limits"]["memory"]) > 0
    assert not service.get("privileged", False)
    assert service["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_has_a_version(name: str) -> None:
    _, _, tag = deployment.service(name, ENVIRONMENT)["image"].partition(":")
    assert tag
    assert tag != "latest"


@pytest.mark.parametrize("name", APP_SERVICES)
def test_web_and_worker_can_be_scaled(name: str) -> None:
    """A fixed name, a published port or a volume of its own would allow one container only."""
    service = deployment.service(name, ENVIRONMENT)
    assert not {"container_name", "hostname", "ports", "volumes", "network_mode"} & set(service)


def test_only_the_proxy_is_published_and_only_on_loopback() -> None:
    services = deployment.compose(ENVIRONMENT)["services"]
    assert [name for name in services if "ports" in services[name]] == ["proxy"]
    assert services["proxy"]["ports"] == ["127.0.0.1:8050:8080"]
    assert deployment.service("proxy", ENVIRONMENT | {"BIND": "0.0.0.0", "PORT": "80"})[
        "ports"
    ] == ["0.0.0.0:80:8080"]
    assert "listen 8080;" in deployment.NGINX_FILE.read_text()


def test_redis_is_reached_by_web_and_worker_alone() -> None:
    tree = deployment.compose(ENVIRONMENT)
    assert tree["services"]["redis"]["networks"] == ["store"]
    assert tree["networks"]["store"]["internal"] is True
    assert "store" not in tree["services"]["proxy"]["networks"]
    for name in APP_SERVICES:
        assert "store" in tree["services"][name]["networks"]
        assert tree["services"][name]["depends_on"]["redis"]["condition"] == "service_healthy"


def test_redis_keeps_calls_through_a_restart_and_asks_for_the_password() -> None:
    shell, option, script = deployment.command("redis", ENVIRONMENT)
    assert (shell, option) == ("sh", "-c")
    words = script.split()
    assert words[:2] == ["exec", "redis-server"]
    settings = dict(zip(words[2::2], words[3::2], strict=True))
    assert settings["--appendonly"] == "yes"
    assert settings["--maxmemory-policy"] == "noeviction"
    assert settings["--requirepass"] == '"$REDIS_PASSWORD"'
    service = deployment.service("redis", ENVIRONMENT)
    assert service["environment"]["REDIS_PASSWORD"] == ENVIRONMENT["REDIS_PASSWORD"]
    assert service["volumes"] == [f"redis:{settings['--dir']}"]
    assert "redis" in deployment.compose(ENVIRONMENT)["volumes"]
    limit = service["deploy"]["resources"]["limits"]["memory"]
    maxmemory = service["environment"]["REDIS_MAXMEMORY"]
    assert deployment.bytes_of(limit) >= 2 * deployment.bytes_of(maxmemory)


@pytest.mark.parametrize("name", APP_SERVICES)
def test_the_environment_is_made_of_settings_that_exist(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = settings_of(name)
    assert {variable.removeprefix(PREFIX).lower() for variable in values} <= set(
        Settings.model_fields
    )
    for variable, value in values.items():
        monkeypatch.setenv(variable, value)
    settings = Settings.read()
    assert settings.redis_url is not None
    url = urlsplit(settings.redis_url.get_secret_value())
    assert (url.hostname, url.password) == ("redis", ENVIRONMENT["REDIS_PASSWORD"])


def test_web_and_worker_agree_on_the_image_redis_and_app() -> None:
    web, worker = (deployment.service(name, ENVIRONMENT) for name in APP_SERVICES)
    assert web["image"] == worker["image"]
    assert web["build"] == worker["build"]
    assert settings_of("web")[f"{PREFIX}REDIS_URL"] == settings_of("worker")[f"{PREFIX}REDIS_URL"]
    module, _, attribute = deployment.command("web", ENVIRONMENT)[-1].partition(":")
    assert attribute == "server"
    assert settings_of("worker")[f"{PREFIX}APP"] == f"{module}:app"


def test_the_default_app_is_the_demo() -> None:
    module, _, _ = deployment.command("web", ENVIRONMENT)[-1].partition(":")
    app = deployment.service("web", ENVIRONMENT)["build"]["additional_contexts"]["app"]
    assert (ROOT / app / f"{module}.py").is_file()


def test_web_listens_where_its_health_check_and_the_proxy_look() -> None:
    words = deployment.command("web", ENVIRONMENT)
    assert words[0] == "hypercorn"
    host, _, port = words[words.index("--bind") + 1].partition(":")
    assert host == "0.0.0.0"
    assert f"http://127.0.0.1:{port}/" in deployment.health_command("web", ENVIRONMENT)[-1]
    assert f"set $web web:{port};" in deployment.NGINX_FILE.read_text()


def test_containers_are_given_the_time_that_their_programs_take_to_stop() -> None:
    worker = deployment.service("worker", ENVIRONMENT)
    grace_s = float(settings_of("worker")[f"{PREFIX}GRACE_S"])
    assert grace_s == Settings().grace_s
    assert deployment.seconds(worker["stop_grace_period"]) >= grace_s + 10
    words = deployment.command("web", ENVIRONMENT)
    graceful_s = float(words[words.index("--graceful-timeout") + 1])
    web = deployment.service("web", ENVIRONMENT)
    assert deployment.seconds(web["stop_grace_period"]) > graceful_s


def nginx_value(directive: str) -> str:
    match = re.search(rf"^\s*{directive} (\S+);", deployment.NGINX_FILE.read_text(), re.MULTILINE)
    assert match is not None, directive
    return match[1]


def test_nginx_takes_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "nginx.conf"
    config.write_text(
        deployment.proxy_config(
            listen=f"unix:{tmp_path}/socket", web="127.0.0.1:9", folder=tmp_path
        )
    )
    check = subprocess.run(
        [require_program("nginx"), "-t", "-q", "-p", str(tmp_path), "-c", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (check.returncode, check.stderr) == (0, "")


def test_the_proxy_lets_through_what_the_settings_allow() -> None:
    """The web process says no in words; a proxy that says it first says it in HTML."""
    settings = Settings()
    assert deployment.bytes_of(nginx_value("client_max_body_size")) > settings.max_request_bytes
    for timeout in ("proxy_read_timeout", "proxy_send_timeout"):
        assert deployment.seconds(nginx_value(timeout)) > 60
        assert deployment.seconds(nginx_value(timeout)) > settings.post_timeout_s
        assert deployment.seconds(nginx_value(timeout)) > settings.poll_hold_s


def test_the_proxy_is_run_with_the_configuration_of_this_repository() -> None:
    proxy = deployment.service("proxy", ENVIRONMENT)
    source, target, mode = proxy["volumes"][0].split(":")
    assert (ROOT / source).samefile(deployment.NGINX_FILE)
    assert mode == "ro"
    words = deployment.command("proxy", ENVIRONMENT)
    assert words[words.index("-c") + 1] == target


def test_everything_that_the_dockerfile_copies_is_there() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    stages = {
        rest.split()[-1]
        for instruction, rest in deployment.dockerfile()
        if instruction == "FROM" and " AS " in rest
    }
    for stage, sources in deployment.copied():
        if stage is not None:
            assert stage in stages
            continue
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source.split('/')[0]}" in ignore, f"{source} is in .dockerignore"


def test_the_image_runs_and_checks_a_worker_by_default() -> None:
    instructions = dict(deployment.dockerfile())
    assert json.loads(instructions["CMD"]) == deployment.command("worker", ENVIRONMENT)
    health = instructions["HEALTHCHECK"].partition("CMD ")[2]
    assert json.loads(health) == deployment.health_command("worker", ENVIRONMENT)
    user, _, group = instructions["USER"].partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_the_image_has_a_python_that_the_package_names() -> None:
    versions = [rest for name, rest in deployment.dockerfile() if name == "ARG"]
    assert len(versions) == 1
    version = versions[0].removeprefix("PYTHON_VERSION=")
    assert f"Python :: {version}" in (ROOT / "pyproject.toml").read_text()
    for instruction, rest in deployment.dockerfile():
        if instruction == "FROM" and rest.startswith("python:"):
            assert rest.startswith("python:${PYTHON_VERSION}-slim-")
