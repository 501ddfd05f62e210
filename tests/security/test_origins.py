"""Other sites: their pages cannot talk to this one with a user's cookies."""

import json

import httpx
import pytest
from websockets.exceptions import InvalidHandshake

from tests.client import LongPollClient, WebsocketClient, http
from tests.security.conftest import STATE, Site
from tests.stack import body

COOKIE = {"Cookie": "login=of-the-user"}

FOREIGN = {
    "missing": None,
    "null": "null",
    "empty": "",
    "another": "http://evil.example",
    "ours with more": "http://{host}.evil.example",
    "as a user": "http://{host}@evil.example",
    "with a user": "http://user@{host}",
    "another port": "http://127.0.0.1:1",
    "no port": "http://127.0.0.1",
    "no scheme": "{host}",
    "in a path": "http://evil.example/{host}",
    "in a query": "http://evil.example?{host}",
    "not a URL": "http://[",
    "a file": "file://",
    "two": "{address} http://evil.example",
    "partner, another scheme": "http://partner.example",
    "partner, another port": "https://partner.example:444",
    "partner, with more": "https://partner.example.evil.example",
    "partner, as a user": "https://partner.example@evil.example",
    "partner, upper case": "https://PARTNER.example",
}
LIES = {"X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}


def headers_of(site: Site, origin: str | None) -> dict[str, str | None]:
    given = None if origin is None else origin.format(host=site.host, address=site.address)
    return {**COOKIE, **LIES, "Origin": given}


@pytest.mark.parametrize("origin", FOREIGN.values(), ids=FOREIGN)
async def test_a_foreign_origin_is_refused(site: Site, origin: str | None) -> None:
    headers = headers_of(site, origin)
    with pytest.raises(InvalidHandshake):
        await WebsocketClient(site.address, headers=headers).open_socket()
    poller = LongPollClient(site.address, headers=headers)
    async with poller.open_http() as poller.http:
        assert (await poller.send()).status_code == 403
        poller.session = "x"
        assert (await poller.poll()).status_code == 403


@pytest.mark.parametrize("origin", ["{address}", "https://partner.example"])
async def test_our_own_and_listed_origins_come_in(site: Site, origin: str) -> None:
    headers = headers_of(site, origin)
    for kind in (WebsocketClient, LongPollClient):
        async with kind(site.address, headers=headers) as client:
            await client.call("one", "local.children", 1, state=STATE)
            assert await client.children("one") == "1"


FORMS = {
    "text": "text/plain",
    "text, as JSON": "text/plain; application/json",
    "form": "application/x-www-form-urlencoded",
    "parts": "multipart/form-data; boundary=x",
    "nothing": None,
    "empty": "",
    "almost": "application/jsonx",
    "two": "text/plain, application/json",
}
"""All that a page of another site can send without asking this server first, and more."""


@pytest.mark.parametrize("output", ["noted.children", "noted-in-worker.children"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_a_form_of_another_site_runs_no_callback(
    site: Site, output: str, form: str | None
) -> None:
    """With the cookies of the user, which a browser may send along."""
    canary = f"by {form!r} for {output}"
    request = json.dumps(body(output, {"in.data": canary}, state=STATE))
    headers = {**COOKIE, "Origin": "http://evil.example"}
    if form is not None:
        headers["Content-Type"] = form
    async with http(site.address) as client:
        answer: httpx.Response = await client.post(
            "/_dash-update-component", content=request.encode(), headers=headers
        )
        assert answer.status_code == 403, answer.text
        own = await client.post(
            "/_dash-update-component",
            content=json.dumps(body(output, {"in.data": f"own {canary}"}, state=STATE)).encode(),
            headers={"Content-Type": "application/json; charset=utf-8"},
        )
        assert own.status_code == 200
    assert f"the callback has run: own {canary}" in site.log
    assert f"the callback has run: {canary}" not in site.log
