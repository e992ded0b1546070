"""`stemsim listen`: a blind listening test in a browser."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemsim.cli.errors import readable_errors
from stemsim.cli.pages import AuthOption, BrowserOption, HostOption, PortOption, check_packages, serve_page

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["listen_command"]

_Choice = StrEnum("_Choice", {"RANDOM": "random", "ACTIVE": "active"})


def listen_command(
    sounds: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...", help="Folders of sounds or songs, or files; or a table with the columns x, a, b."
        ),
    ],
    votes: Annotated[Path, typer.Option(help="CSV file that votes are appended to; made if there is none.")],
    questions: Annotated[
        str | None,
        typer.Option(help="Asked besides overall similarity: timbre,rhythm,melody or some.", show_default="none"),
    ] = None,
    trials: Annotated[int, typer.Option(help="Trials of each listener, checks included.")] = 42,
    training: Annotated[int, typer.Option(help="Training trials before them.")] = 2,
    break_every: Annotated[int, typer.Option(help="Trials between two breaks; 0: no breaks.")] = 20,
    instructions: Annotated[
        Path | None, typer.Option(help="Markdown file with instructions and consent.", show_default="a short text")
    ] = None,
    choice: Annotated[
        _Choice, typer.Option(help="Random triplets, or those whose answers tell most about a listener's weights.")
    ] = _Choice.RANDOM,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model around whose weights those of a listener are expected, for --choice active.",
            show_default="equal stems of frequency bands",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the plan of all listeners.")] = 0,
    port: PortOption = 8424,
    host: HostOption = "127.0.0.1",
    auth: AuthOption = None,
    browser: BrowserOption = True,
) -> None:
    """Ask listeners which of two sounds is more like a third: a blind XAB test in the browser.

    Sounds come at one loudness and switch without a gap; the order of A and B is balanced for each listener. Training,
    repetitions, a sound against itself and a song against another one are part of the test. Every vote is on the disk
    before the next trial shows, and a test goes on where it was left, whatever happened. `stemsim votes FILE` counts.
    """
    with readable_errors():
        from stemsim.errors import ConfigError

        check_packages()
        from stemsim.app.listen import INSTRUCTIONS, ListeningSettings, active_choice, create_listening_test
        from stemsim.app.listening import Stimuli, random_choice
        from stemsim.audio import SongFolder

        try:
            text = INSTRUCTIONS if instructions is None else instructions.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--instructions {instructions} cannot be read as text: {error}.") from error
        settings = ListeningSettings(
            questions=tuple(name.strip() for name in (questions or "").split(",") if name.strip()),
            trials=trials,
            training=training,
            break_every=break_every,
            instructions=text,
            seed=seed,
        )

        if choice is _Choice.RANDOM and model is not None:
            raise ConfigError("--model is for --choice active: a random choice knows no weights.")
        if any(path.suffix.lower() in {".csv", ".tsv", ".parquet"} for path in sounds):
            if len(sounds) > 1:
                raise ConfigError("A table of triplets is a whole test: give it alone.")
            stimuli = Stimuli.of_table(sounds[0])
        else:
            found = [[path] if path.is_file() else [song.mix for song in SongFolder(path).songs()] for path in sounds]
            stimuli = Stimuli.of_files([file for part in found for file in part])
        chooser = random_choice if choice is _Choice.RANDOM else active_choice(stimuli, model)

        def make(_folder: Path, token: str) -> "Starlette":
            return create_listening_test(
                stimuli, votes, token=token, host=host, settings=settings, choice=chooser, model=model or ""
            )

        serve_page(make, host=host, port=port, auth=auth, browser=browser)
