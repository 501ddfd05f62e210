"""arq's settings module: ``arq dash_dispatch.worker`` starts a worker.

::

    DASH_DISPATCH_APP=module:attribute DASH_DISPATCH_REDIS_URL=redis://… arq dash_dispatch.worker

Importing this module reads the settings, imports the app and asks Redis, so that whatever is wrong
is said in words before anything runs. arq reads the names at the bottom.
"""

import asyncio
import logging
import sys
from typing import Any, cast

from arq.connections import RedisSettings

from dash_dispatch import bridge, connection
from dash_dispatch.config import SentinelUrl, Settings
from dash_dispatch.engine import Engine
from dash_dispatch.errors import ConfigError, DispatchError, StoreError
from dash_dispatch.loading import load_app

REDIS_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


def _prepare() -> tuple[Engine, Settings]:
    settings = Settings.read()
    if settings.redis_url is None:
        raise ConfigError("DASH_DISPATCH_REDIS_URL is not set: where do web and workers meet?")
    if settings.app is None:
        raise ConfigError(
            "DASH_DISPATCH_APP is not set: name the app, as in DASH_DISPATCH_APP=module:attribute"
        )
    app = load_app(settings.app)
    bridge.ready(app)
    try:
        connection.ping(settings.redis_url.get_secret_value(), REDIS_TIMEOUT_S)
    except StoreError as error:
        raise ConfigError(f"DASH_DISPATCH_REDIS_URL={settings.display_url}: {error}") from error
    return Engine(app, settings, settings.app), settings


def _log_to_stderr() -> None:
    """arq configures its own loggers only."""
    package = logging.getLogger("dash_dispatch")
    if not package.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s"))
        package.addHandler(handler)
        package.setLevel(logging.INFO)
    # A line per job of its own, with nothing that ours do not say; and for a call that is stopped
    # with its worker, which is no mistake, a traceback.
    logging.getLogger("arq.worker").addFilter(_says_more)


def _says_more(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if record.exc_info else None
    stopped = kind is not None and issubclass(kind, asyncio.CancelledError)
    return record.levelno >= logging.WARNING and not stopped


def _redis_settings(url: str) -> RedisSettings:
    """What ``arq --check`` connects with; the worker has its own connections."""
    named = SentinelUrl.read(url)
    if named is None:
        return RedisSettings.from_dsn(url)
    return RedisSettings(
        host=list(named.sentinels),
        sentinel=True,
        sentinel_master=named.service,
        database=named.db,
        ssl=named.secure,
        **cast(Any, named.login),
    )


try:
    _engine, _settings = _prepare()
except DispatchError as _error:
    sys.exit(f"dash_dispatch worker: {_error}")
_log_to_stderr()

_arq = _engine.arq_settings()
functions = _arq["functions"]
redis_pool = _arq["redis_pool"]
redis_settings = _redis_settings(_settings.redis_url.get_secret_value())  # type: ignore[union-attr]
queue_name = _arq["queue_name"]
on_startup = _arq["on_startup"]
on_shutdown = _arq["on_shutdown"]
after_job_end = _arq["after_job_end"]
handle_signals = _arq["handle_signals"]
max_jobs = _arq["max_jobs"]
queue_read_limit = _arq["queue_read_limit"]
poll_delay = _arq["poll_delay"]
job_timeout = _arq["job_timeout"]
keep_result = _arq["keep_result"]
retry_jobs = _arq["retry_jobs"]
health_check_interval = _arq["health_check_interval"]
health_check_key = _arq["health_check_key"]
job_serializer = _arq["job_serializer"]
job_deserializer = _arq["job_deserializer"]
log_results = _arq["log_results"]
