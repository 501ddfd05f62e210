"""Every error that dash_dispatch raises, and what it means to whoever asked.

::

    DispatchError
    ├─ ConfigError            bad settings; raised at start-up, names the setting
    ├─ SubmitError            never accepted, nothing ran
    │  ├─ BadRequest          400  the body is not a callback request
    │  ├─ Forbidden           403  not this page's, or not from this origin
    │  ├─ NotOffloaded        404  no such callback
    │  ├─ PayloadTooLarge     413
    │  └─ QueueFull           503  may be tried again
    ├─ CallError              accepted; carries the call id
    │  ├─ CallFailed          the callback raised
    │  ├─ CallTimedOut
    │  ├─ CallCancelled
    │  ├─ WorkerLost          the process that ran it died
    │  └─ CallExpired         nobody knows it any more
    ├─ ProtocolError          what came over the wire cannot be read
    │  ├─ DecodeError
    │  └─ UnsupportedVersion
    └─ StoreError
       └─ StoreUnavailable    503  Redis cannot be reached or refuses; may be tried again

The tree's shape follows httpx's ``_exceptions.py``: one root, and what may be done about an error
is an attribute of its class.
"""

from typing import ClassVar


class DispatchError(Exception):
    """Root of all errors of this package."""

    code: ClassVar[str] = "error"
    """A stable word for logs, metrics and clients."""
    http_status: ClassVar[int] = 500
    """What a plain HTTP caller is answered."""
    retryable: ClassVar[bool] = False
    """Whether the same request may succeed later."""


class ConfigError(DispatchError):
    """A setting is missing or wrong. Raised at start-up, never later."""

    code = "config"


class SubmitError(DispatchError):
    """A call was refused: it was never accepted and nothing ran."""

    code = "refused"
    http_status = 400


class BadRequest(SubmitError):
    """The body is not a callback request."""

    code = "bad_request"


class Forbidden(SubmitError):
    """The caller may not do this: wrong origin, or somebody else's page."""

    code = "forbidden"
    http_status = 403


class NotOffloaded(SubmitError):
    """The app has no such callback."""

    code = "unknown_callback"
    http_status = 404


class PayloadTooLarge(SubmitError):
    """The request or its result is larger than the setting allows."""

    code = "too_large"
    http_status = 413


class QueueFull(SubmitError):
    """The queue is at its bound."""

    code = "busy"
    http_status = 503
    retryable = True


class CallError(DispatchError):
    """An accepted call ended without a result.

    Args:
        call_id: The call's id, as it stands in logs.
        message: What happened, for people.
    """

    code = "call"

    def __init__(self, call_id: str, message: str) -> None:
        super().__init__(message)
        self.call_id = call_id


class CallFailed(CallError):
    """The callback raised."""

    code = "failed"


class CallTimedOut(CallError):
    """The callback ran, or the caller waited, longer than allowed."""

    code = "timed_out"
    http_status = 504


class CallCancelled(CallError):
    """Somebody asked for it to end."""

    code = "cancelled"
    http_status = 409


class WorkerLost(CallError):
    """The worker or the process that ran the call died."""

    code = "worker_lost"


class CallExpired(CallError):
    """The call's record is gone: it ended too long ago, or was never made."""

    code = "expired"
    http_status = 410


class ProtocolError(DispatchError):
    """A message cannot be understood."""

    code = "protocol"
    http_status = 400


class DecodeError(ProtocolError):
    """Not JSON, or not a message of this protocol."""

    code = "decode"


class UnsupportedVersion(ProtocolError):
    """The other side speaks a protocol version that this release does not."""

    code = "version"


class StoreError(DispatchError):
    """Redis answered with an error of its own."""

    code = "store"


class StoreUnavailable(StoreError):
    """Redis cannot be reached, is loading, full, or failing over."""

    code = "store_unavailable"
    http_status = 503
    retryable = True
