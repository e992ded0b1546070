"""Names of a package that are imported when they are first used, so that light commands start quickly."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, modules: Mapping[str, str], *, together: bool = True) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that imports its heavy modules once one of their names is used.

    Args:
        package: Name of the package.
        modules: Module within the package, by the name that it defines.
        together: Import all of them then, since jsonargparse offers the subclasses that it knows, and those are the
            imported ones; otherwise only the one that is asked for.
    """

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        for module in modules.values() if together else ():
            importlib.import_module(f"{package}.{module}")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return load
