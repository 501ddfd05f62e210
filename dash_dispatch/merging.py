"""What a generator yields where it cannot be shown one by one: one response, with the same end."""

from typing import Any, Final

PATCH: Final = "__dash_patch_update"
"""By this key the renderer knows a ``Patch``."""

_Place = tuple[str, str]


class Updates:
    """Updates of component properties, in the order given, put together.

    A value takes the place of what came before it. A ``Patch`` comes on top: of another one, as
    one with the operations of both; of a value, beside it.
    """

    def __init__(self) -> None:
        self._values: dict[_Place, Any] = {}
        self._operations: dict[_Place, list[Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._values or self._operations)

    def add(self, component: str, prop: str, value: Any) -> None:
        """One more, in plain JSON types."""
        place = (component, prop)
        if isinstance(value, dict) and PATCH in value:
            self._operations.setdefault(place, []).extend(value["operations"])
        else:
            self._values[place] = value
            self._operations.pop(place, None)

    def merge_into(self, response: dict[str, Any]) -> None:
        """Put them below what a callback's response says, which is the last word.

        The renderer applies ``sideUpdate`` before ``response``, and a patch to what is there then:
        so a value that a patch comes on top of goes by the first, and the patch by the second.
        """
        for component, props in response["response"].items():
            for prop, value in props.items():
                self.add(component, prop, value)
        for (component, prop), value in self._values.items():
            where = "sideUpdate" if (component, prop) in self._operations else "response"
            response.setdefault(where, {}).setdefault(component, {})[prop] = value
        for (component, prop), operations in self._operations.items():
            patch = {PATCH: PATCH, "operations": operations}
            response["response"].setdefault(component, {})[prop] = patch
