"""Groups of commands."""

from typing import Any

from typer.core import TyperGroup


def group_with_default(default: str) -> type[TyperGroup]:
    """Return the class of a group that takes arguments which begin with no command as those of its default command."""

    class WithDefault(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # the context is click's or typer's own
            """Put the default command before arguments that begin with none."""
            if args and args[0] not in self.commands and args[0] != "--help":
                args = [default, *args]
            return super().parse_args(ctx, args)

    return WithDefault
