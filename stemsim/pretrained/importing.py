"""Checkpoints as safetensors, once and for all."""

from pathlib import Path

from stemsim.errors import ConfigError
from stemsim.pretrained.loading import read_checkpoint, write_checkpoint

__all__ = ["import_checkpoint"]


def import_checkpoint(
    file: str | Path, *, allow_pickle: bool = False, output: Path | None = None, overwrite: bool = False
) -> Path:
    """Turn a checkpoint into safetensors: quicker to read, and no code can be in it.

    Every tensor stays as it is, and so does the identity of the encoder or separator that is made of it.

    Args:
        file: A torch file: of LAION-CLAP, MuQ-MuLan or Demucs, or any state dictionary.
        allow_pickle: Run the code that the file may hold. Only for files from people you trust.
        output: File to write; None puts it beside the checkpoint, with the ending `.safetensors`.
        overwrite: Replace a file that is there.

    Returns:
        The file written.

    Raises:
        ConfigError: If the file to write is there already, is the checkpoint itself, or is not named as safetensors.
        CheckpointError: If the checkpoint cannot be read without running code, is damaged, or there is no room.
    """
    file = Path(file)
    target = output or file.with_suffix(".safetensors")
    if target.resolve() == file.resolve():
        msg = f"{file} would be written onto itself. Name another file by --output; safetensors need no import."
        raise ConfigError(msg)
    if target.suffix != ".safetensors":
        msg = f"What is written is safetensors, and is read as such by its ending only; --output was {target}."
        raise ConfigError(msg)
    if target.exists() and not overwrite:
        msg = f"{target} is there already. Name another file by --output, or replace it by --overwrite."
        raise ConfigError(msg)
    write_checkpoint(target, read_checkpoint(file, allow_pickle=allow_pickle))
    return target
