"""A small model of a page: its components' properties, and what Dash's renderer does to them.

It makes the renderer's requests, and takes answers, updates and ``Patch`` operations in the
renderer's order. `tests/browser/test_parity.py` plays the same forms on the renderer itself.
"""

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Props = dict[str, Any]
Spec = dict[str, Any]
Payload = dict[str, Any]
Change = tuple[Any, str, Any]
Chain = tuple[str, ...]
"""The callbacks from which a call follows."""

PATCH = "__dash_patch_update"


def text_of(component_id: Any) -> str:
    """An id as the key that Dash makes of it."""
    if isinstance(component_id, str):
        return component_id
    return json.dumps(component_id, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def id_of(text: str) -> Any:
    """The id with this key."""
    return json.loads(text) if text.startswith("{") else text


@dataclass
class Answer:
    """How a request ended.

    Attributes:
        status: ``ok``, ``prevented`` or ``error``.
        data: The callback's response, when ok.
        error: Kind and message, in case of an error.
        headers: Those that a callback can set, over POST.
    """

    status: str
    data: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)


class Transport(ABC):
    """The way of a page's requests to a server."""

    streams = True
    """Whether updates come by themselves, as they happen."""

    @abstractmethod
    async def ask(
        self, page: str, payload: Payload, update: Callable[[str, Props], None]
    ) -> Answer:
        """Run a callback; updates of this page that come before its answer go to ``update``."""


@dataclass
class Ending:
    """A page after all that its user did.

    Attributes:
        state: Component → its properties.
        answers: The status of each request, in order.
        errors: What reached the page's error handler.
        headers: What callbacks set on their responses.
        trouble: Why this is no ending at all.
    """

    state: dict[str, Props] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    headers: list[tuple[str, str]] = field(default_factory=list)
    trouble: str = ""


class Page:
    """One page.

    Args:
        name: What the ids of its components begin with.
        layout: Its components, as of ``_dash-layout``.
        specs: The callbacks that belong to it, as of ``_dash-dependencies``.
        transport: How it asks.
    """

    def __init__(self, name: str, layout: Any, specs: list[Spec], transport: Transport) -> None:
        self._name = name
        self._specs = [spec for spec in specs if spec["clientside_function"] is None]
        self._transport = transport
        self._components: dict[str, Props] = {}
        self.ending = Ending(self._components)
        self._take_in(copy.deepcopy(layout))

    async def load(self) -> None:
        """What happens when a page appears."""
        await self._begin(set(self._components), (), everything=True)

    async def change(self, changes: list[Change]) -> None:
        """A user changes properties, all at once; what follows from it has happened on return."""
        for component_id, prop, value in changes:
            self._components[text_of(component_id)][prop] = value
        await self._follow([(text_of(component_id), prop) for component_id, prop, _ in changes], ())

    # --- which callbacks ------------------------------------------------------------------------

    async def _begin(self, new: set[str], before: Chain, *, everything: bool) -> None:
        """Initial calls of the callbacks that have inputs (or outputs) among new components."""
        for spec in self._specs:
            if spec["prevent_initial_call"]:
                continue
            found = spec["inputs"] or _outputs(spec)
            if not found:
                if everything:
                    await self._call(spec, {}, [], before)
                continue
            for match in self._matches(found, new):
                await self._call(spec, match, [], before)

    async def _follow(self, changed: list[tuple[str, str]], before: Chain) -> None:
        """Calls of the callbacks that have inputs among these properties.

        A callback never follows from itself.
        """
        for spec in self._specs:
            if spec["output"] in before:
                continue
            asked: dict[str, tuple[dict[str, Any], list[str]]] = {}
            for component, prop in changed:
                for dep in spec["inputs"]:
                    if dep["property"] == prop:
                        match = _matching(dep["id"], component)
                        if match is not None:
                            _, props = asked.setdefault(json.dumps(match), (match, []))
                            props.append(f"{component}.{prop}")
            for match, props in asked.values():
                await self._call(spec, match, list(dict.fromkeys(props)), before)

    def _matches(self, deps: list[dict[str, Any]], among: set[str]) -> list[dict[str, Any]]:
        """The different ``MATCH`` values of dependencies."""
        found: dict[str, dict[str, Any]] = {}
        for dep in deps:
            for component in self._components:
                match = _matching(dep["id"], component)
                if match is not None and component in among:
                    found.setdefault(json.dumps(match), match)
            if "ALL" in dep["id"] and not found and "MATCH" not in dep["id"]:
                found.setdefault("{}", {})
        whole = max((len(match) for match in found.values()), default=0)
        return [match for match in found.values() if len(match) == whole]

    # --- requests -------------------------------------------------------------------------------

    async def _call(
        self, spec: Spec, match: dict[str, Any], changed: list[str], before: Chain
    ) -> None:
        payload = self._payload(spec, match, changed)
        if payload is None:
            return
        touched: list[tuple[str, str]] = []

        def update(component: str, props: Props) -> None:
            touched.extend(self._write(component, props))

        running = spec.get("running") or {"running": {}, "runningOff": {}}
        self._side_update(running["running"], payload, update)
        answer = await self._transport.ask(self._name, payload, update)
        side = answer.data.get("sideUpdate", {})
        # Over HTTP the renderer takes what was set first, over a websocket the end of `running`.
        steps = [running["runningOff"], side]
        for step in steps if self._transport.streams else reversed(steps):
            self._side_update(step, payload, update)
        self.ending.answers.append(answer.status)
        self.ending.headers += answer.headers
        if answer.status == "error":
            self.ending.errors.append(answer.error)
        for component, props in answer.data.get("response", {}).items():
            update(component, props)
        await self._go_on(touched, (*before, spec["output"]))

    async def _go_on(self, touched: list[tuple[str, str]], chain: Chain) -> None:
        known = set(self._components)
        for component, prop in touched:
            self._take_in(self._components[component][prop])
        if new := set(self._components) - known:
            await self._begin(new, chain, everything=False)
        if touched:
            await self._follow(touched, chain)

    def _payload(self, spec: Spec, match: dict[str, Any], changed: list[str]) -> Payload | None:
        inputs = [self._values(dep, match) for dep in spec["inputs"]]
        state = [self._values(dep, match) for dep in spec["state"]]
        outputs = [self._targets(dep, match) for dep in _outputs(spec)]
        if None in outputs or None in inputs:
            return None
        payload: Payload = {
            "output": spec["output"],
            "inputs": inputs,
            "changedPropIds": changed,
            "parsedChangedPropsIds": [id_of(prop.rpartition(".")[0]) for prop in changed],
        }
        if outputs:
            payload["outputs"] = outputs if spec["output"].startswith("..") else outputs[0]
        if state:
            payload["state"] = state
        # As the renderer sends it: what is undefined is left out.
        copied: Payload = json.loads(json.dumps(payload))
        return copied

    def _values(self, dep: dict[str, Any], match: dict[str, Any]) -> Any:
        found = [
            {"id": id_of(component), "property": dep["property"]}
            | ({"value": props[dep["property"]]} if dep["property"] in props else {})
            for component, props in self._found(dep["id"], match)
        ]
        if _is_multi(dep["id"]):
            return found
        if not found:
            optional = dep.get("allow_optional")
            return dep | {"id": id_of(dep["id"]), "value": None} if optional else None
        return found[0]

    def _targets(self, dep: dict[str, Any], match: dict[str, Any]) -> Any:
        found = [
            {"id": id_of(component), "property": dep["property"]}
            for component, _ in self._found(dep["id"], match)
        ]
        if _is_multi(dep["id"]):
            return found
        return found[0] if found else None

    def _found(self, pattern: str, match: dict[str, Any]) -> Iterator[tuple[str, Props]]:
        for component, props in self._components.items():
            given = _matching(pattern, component, match)
            if given is not None and all(given[key] == match.get(key) for key in given):
                yield component, props

    # --- answers --------------------------------------------------------------------------------

    def _side_update(
        self, values: dict[str, Any], payload: Payload, update: Callable[[str, Props], None]
    ) -> None:
        """``running`` and ``set_props``: by ``id.property``, or by id with all properties."""
        for key, value in values.items():
            if key.startswith("{"):
                component, _, prop = key.rpartition("}")
                component, prop = _replaced(f"{component}}}", payload), prop[1:]
            else:
                component, _, prop = key.partition(".")
            update(component, {prop: value} if prop else value)

    def _write(self, component: str, props: Props) -> list[tuple[str, str]]:
        """Set properties; returns those that exist."""
        known = self._components.get(text_of(id_of(component)))
        if known is None:
            # The renderer says so in the console, and goes on.
            return []
        for prop, value in props.items():
            patch = isinstance(value, dict) and PATCH in value
            known[prop] = patched(known[prop], value) if patch else value
        return [(text_of(id_of(component)), prop) for prop in props]

    def _take_in(self, value: Any) -> None:
        """Find the components in a value. Their properties stay part of it, too."""
        if isinstance(value, list):
            for part in value:
                self._take_in(part)
        elif isinstance(value, dict) and {"type", "namespace", "props"} <= set(value):
            props = value["props"]
            if "id" in props:
                self._components[text_of(props["id"])] = props
            for part in props.values():
                self._take_in(part)


def _outputs(spec: Spec) -> list[dict[str, Any]]:
    if spec["no_output"]:
        return []
    parts = spec["output"].strip(".").split("...") if spec["output"].startswith("..") else None
    names = parts or [spec["output"]]
    return [dict(zip(("id", "property"), _split(name), strict=True)) for name in names]


def _split(name: str) -> tuple[str, str]:
    component, _, prop = name.rpartition(".")
    return component, prop


def _is_multi(pattern: str) -> bool:
    return '["ALL"]' in pattern or '["ALLSMALLER"]' in pattern


def _matching(
    pattern: str, component: str, match: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """The ``MATCH`` values with which a pattern names this component; None if it does not."""
    if not pattern.startswith("{"):
        return {} if text_of(component) == pattern else None
    if not component.startswith("{"):
        return None
    wanted, given = json.loads(pattern), json.loads(component)
    if set(wanted) != set(given):
        return None
    found = {}
    for key, value in wanted.items():
        if value == ["MATCH"]:
            found[key] = given[key]
        elif value == ["ALLSMALLER"]:
            if match is None or not given[key] < match[key]:
                return None
        elif value != ["ALL"] and value != given[key]:
            return None
    return found


def _replaced(pattern: str, payload: Payload) -> str:
    """An id of ``running`` whose ``MATCH`` is that of the request."""
    changed = payload["parsedChangedPropsIds"]
    wanted = json.loads(pattern)
    for key, value in wanted.items():
        if value == ["MATCH"]:
            wanted[key] = changed[0][key]
    return text_of(wanted)


# --- Patch ----------------------------------------------------------------------------------------


def patched(previous: Any, patch: dict[str, Any]) -> Any:
    """A value after the operations of a ``Patch``."""
    whole = {"value": copy.deepcopy(previous)}
    for operation in patch["operations"]:
        path: list[Any] = ["value", *operation["location"]]
        target: Any = whole
        for key in path[:-1]:
            target = target[_index(target, key)]
        _OPERATIONS[operation["operation"]](
            target, _index(target, path[-1]), operation.get("params", {})
        )
    return whole["value"]


def _index(target: Any, key: Any) -> Any:
    if isinstance(target, list):
        return key + len(target) if key < 0 else key
    return str(key)


def _assign(target: Any, key: Any, params: Any) -> None:
    target[key] = params["value"]


def _delete(target: Any, key: Any, params: Any) -> None:
    del target[key]


def _insert(target: Any, key: Any, params: Any) -> None:
    target[key].insert(params["index"], params["value"])


def _reverse(target: Any, key: Any, params: Any) -> None:
    target[key] = target[key][::-1]


def _clear(target: Any, key: Any, params: Any) -> None:
    target[key] = type(target[key])()


def _to(make: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any], None]:
    def operation(target: Any, key: Any, params: Any) -> None:
        target[key] = make(target[key], params["value"])

    return operation


_OPERATIONS: dict[str, Callable[[Any, Any, Any], None]] = {
    "Assign": _assign,
    "Delete": _delete,
    "Insert": _insert,
    "Reverse": _reverse,
    "Clear": _clear,
    "Merge": _to(lambda old, value: {**old, **value}),
    "Extend": _to(lambda old, value: [*old, *value]),
    "Append": _to(lambda old, value: [*old, value]),
    "Prepend": _to(lambda old, value: [value, *old]),
    "Add": _to(lambda old, value: old + value),
    "Sub": _to(lambda old, value: old - value),
    "Mul": _to(lambda old, value: old * value),
    "Div": _to(lambda old, value: old / value),
    "Remove": _to(lambda old, value: [each for each in old if each != value]),
}
