"""Songs in a folder."""

from dataclasses import dataclass
from pathlib import Path

from stemsim.audio.files import is_audio_path
from stemsim.errors import DataNotFoundError

__all__ = ["Song", "SongFolder"]


@dataclass(frozen=True, slots=True)
class Song:
    """A song: its name and its mix.

    Attributes:
        name: Its path within the folder of songs.
        mix: The audio file of the whole song; its stems, if any, lie beside it.
    """

    name: str
    mix: Path


class SongFolder:
    """A folder of songs: subfolders that hold a `mix.*` (with or without stems), and any other audio file.

    Args:
        root: The folder; searched with all its subfolders.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def songs(self) -> list[Song]:
        """Find the songs, sorted by name.

        Returns:
            One entry for each subfolder with a `mix.*` file, and one for each audio file outside such subfolders.

        Raises:
            DataNotFoundError: If the folder does not exist or holds no audio.
        """
        if not self.root.is_dir():
            msg = f"No folder of songs at {self.root}. Set `root` to a folder with audio files or multitrack songs."
            raise DataNotFoundError(msg)
        files = sorted(path for path in self.root.rglob("*") if is_audio_path(path) and path.is_file())
        # A hidden folder is not music: a trash, or what a killed generator of songs left.
        files = [path for path in files if not any(n.startswith(".") for n in path.relative_to(self.root).parts)]
        mixes = {path.parent: path for path in files if path.stem == "mix" and path.parent != self.root}
        found = [Song(str(folder.relative_to(self.root)), mix) for folder, mix in mixes.items()]
        found += [
            Song(str(path.relative_to(self.root)), path)
            for path in files
            if not any(parent in mixes for parent in path.parents)
        ]
        if not found:
            msg = f"No audio in {self.root}: expected wav, flac, ogg, mp3 or aiff files, or subfolders with a mix.*."
            raise DataNotFoundError(msg)
        return sorted(found, key=lambda song: song.name)
