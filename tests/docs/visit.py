"""A visitor of an example: calls its callbacks as Dash's renderer does, and notes what changes."""

import copy
import itertools
import json
from typing import Any

import httpx

from tests.client import Message, WebsocketClient
from tests.parity.page import PATCH, patched

_UNKNOWN = object()
Values = dict[str, Any]
Match = dict[str, Any]


class Visit:
    """One page of an example, open.

    Args:
        client: Its connection.
        specs: The app's callbacks, as of ``_dash-dependencies``.
    """

    def __init__(self, client: WebsocketClient, specs: list[Message]) -> None:
        self.client = client
        self.shown: list[str] = []
        self._specs = {spec["output"]: spec for spec in specs}
        self._state: dict[tuple[str, str], Any] = {}
        self._numbers = itertools.count(1)
        client.on_message = self._note

    async def call(self, output: str, values: Values, match: Match | None = None) -> Message:
        """Run a callback to its outcome."""
        spec = self._spec(output)
        if not spec["websocket"]:
            return await self._post(_payload(spec, values, match or {}))
        return await self.client.outcome(await self.ask(output, values, match))

    async def ask(self, output: str, values: Values, match: Match | None = None) -> str:
        """Ask for a callback, and do not wait; the name of the request."""
        request = f"r{next(self._numbers)}"
        await self.client.ask(request, _payload(self._spec(output), values, match or {}))
        return request

    async def press(self, button: str, match: Match | None = None) -> Message:
        """Press a button of ``cancel=``."""
        [output] = [
            spec["output"]
            for spec in self._specs.values()
            if spec.get("hidden") and spec["inputs"][0]["id"] == button
        ]
        return await self.call(output, {f"{button}.n_clicks": 1}, match)

    def beside(self, client: WebsocketClient) -> "Visit":
        """Another page with the same app, whose lines are noted with those of this one."""
        other = Visit(client, list(self._specs.values()))
        other.shown = self.shown
        return other

    async def sees(self, start: str, times: int = 1) -> None:
        """Wait until so many lines begin like this."""
        await self.client.until(
            lambda: sum(line.startswith(start) for line in self.shown) >= times,
            f"{start!r} {times} times (so far: {self.shown})",
        )

    def data(self, name: str) -> Values:
        """What a property holds now, to be sent with a call."""
        component, _, prop = name.partition(".")
        return {name: self._state[component, prop]}

    def _spec(self, output: str) -> Message:
        """By its output; by the first of them, or the part of its id that tells it from others."""
        found = [spec for name, spec in self._specs.items() if name == output]
        found = found or [spec for name, spec in self._specs.items() if output in name]
        assert len(found) == 1, f"{output!r} names {[spec['output'] for spec in found]}"
        return found[0]

    async def _post(self, payload: Message) -> Message:
        async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
            answer = await http.post(
                f"{self.client.address}/_dash-update-component",
                json=payload,
                headers=self.client.headers,
            )
        answer.raise_for_status()
        data = answer.json()
        self._write(data)
        return {"status": "ok", "data": data}

    # --- what is shown --------------------------------------------------------------------------

    def _note(self, message: Message) -> None:
        payload = message.get("payload", {})
        match message["type"]:
            case "set_props":
                self._show(payload["componentId"], payload["props"])
            case "callback_response" if payload["status"] == "ok":
                self._write(payload["data"])
            case "callback_response" if payload["status"] == "error":
                self.shown.append(f"error: {payload['message']}")

    def _write(self, data: Message) -> None:
        for name in ("sideUpdate", "response"):
            for component, props in data.get(name, {}).items():
                self._show(component, props)

    def _show(self, component: str, props: dict[str, Any]) -> None:
        for prop, value in props.items():
            place = (component, prop)
            is_patch = isinstance(value, dict) and PATCH in value
            shown = patched(self._state.get(place, []), value) if is_patch else value
            if self._state.get(place, _UNKNOWN) == shown:
                continue
            self._state[place] = copy.deepcopy(shown)
            text = shown if isinstance(shown, str) else json.dumps(shown)
            self.shown.append(f"{_label(component)}.{prop}: {text}".rstrip())


# --- requests -------------------------------------------------------------------------------------


def _payload(spec: Message, values: Values, match: Match) -> Message:
    inputs = [_dependency(dep, values, match) for dep in spec["inputs"]]
    output = spec["output"].removesuffix("@" + spec["output"].partition("@")[2])
    names = output.strip(".").split("...") if output.startswith("..") else [output]
    outputs = [_output(name, match) for name in names if "." in name]
    return {
        "output": spec["output"],
        "outputs": outputs if output.startswith("..") else next(iter(outputs), None),
        "inputs": inputs,
        "state": [_dependency(dep, values, match) for dep in spec["state"]],
        "changedPropIds": [_prop_id(dep) for dep in inputs if _name(dep) in values],
    }


def _dependency(dep: Message, values: Values, match: Match) -> Message:
    found = {"id": _concrete(dep["id"], match), "property": dep["property"]}
    return found | {"value": values.get(_name(found))}


def _output(name: str, match: Match) -> Message:
    component, _, prop = name.rpartition(".")
    return {"id": _concrete(component, match), "property": prop}


def _concrete(id_: str, match: Match) -> Any:
    if not id_.startswith("{"):
        return id_
    return {k: match[k] if v == ["MATCH"] else v for k, v in json.loads(id_).items()}


def _name(dep: Message) -> str:
    """``component.property``; of a component with a dict id, its ``type``."""
    id_ = dep["id"]
    return f"{id_ if isinstance(id_, str) else id_['type']}.{dep['property']}"


def _label(component: str) -> str:
    """A component's id, short: of a dict id the type and the values."""
    if not component.startswith("{"):
        return component
    id_ = json.loads(component)
    return " ".join([id_.pop("type"), *map(str, id_.values())])


def _prop_id(dep: Message) -> str:
    id_ = dep["id"]
    text = id_ if isinstance(id_, str) else json.dumps(id_, sort_keys=True, separators=(",", ":"))
    return f"{text}.{dep['property']}"
