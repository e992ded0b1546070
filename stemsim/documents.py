"""YAML and JSON that anyone may have written: whatever is wrong with them is one kind of error."""

import json
from collections.abc import Callable
from typing import Any, Final

import yaml

__all__ = ["read_json", "read_yaml"]

# PyYAML lets these through for values such as `!!bool x`, `2001-99-99` or a thousand opening brackets.
_YAML_ERRORS: Final = (yaml.YAMLError, LookupError, TypeError, AttributeError, RecursionError)


def read_yaml(text: str, *, aliases: bool = False) -> Any:
    """Return the content of a YAML document; `aliases` lets it repeat parts, a few lines of which fill any memory.

    Raises:
        ValueError: If it is no such document.
    """
    try:
        return yaml.load(text, yaml.SafeLoader if aliases else _Loader)  # noqa: S506 - both are safe
    except _YAML_ERRORS as error:
        raise ValueError(str(error) if isinstance(error, yaml.YAMLError) else repr(error)) from error


def read_json(text: str | bytes, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return the content of a JSON document; `hook` may replace its objects.

    Raises:
        ValueError: If it is no JSON, or too deep.
    """
    try:
        return json.loads(text, object_hook=hook)
    except RecursionError as error:
        raise ValueError(f"it is nested too deeply: {error}") from error


class _Loader(yaml.SafeLoader):
    """Refuses aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases, such as `*name`, are not read here: write out what they stand for")
        return super().compose_node(parent, index)
