"""Audio for the page: windows and stems as wav files, and peaks to draw."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import soundfile
from torch import Tensor

from stemsim.audio import Segment, audio_info, read_audio

Peaks = npt.NDArray[np.float32]  # `(column, 2)` lowest and highest sample

_BLOCK: Final = 10.0  # seconds read at once
_SILENT: Final = 1e-3  # -60 dBFS: what is lower at the ends of an upload is cut off
_STEP: Final = 0.01  # seconds of a column in which silence is looked for
_LEAST_CUT: Final = 0.05  # seconds


def peaks_of(
    path: Path, start: float, duration: float, columns: int, *, watch: Callable[[float], None] | None = None
) -> Peaks:
    """Return the lowest and the highest sample of each of some columns, over all channels.

    Args:
        path: An audio file, which is read block by block.
        start: Start of the part in seconds.
        duration: Its length in seconds.
        columns: Number of columns; fewer if there are fewer samples.
        watch: Called with the share that is done.

    Returns:
        `(column, 2)`.
    """
    info = audio_info(path)
    rate, first = info.sample_rate, round(start * info.sample_rate)
    total = min(round(duration * rate), info.frames - first)
    columns = max(1, min(columns, total))
    edges = np.linspace(0, total, columns + 1).astype(np.int64)
    at_once = max(1, int(_BLOCK * rate * columns / total))
    peaks = np.zeros((columns, 2), np.float32)
    for column in range(0, columns, at_once):
        bounds = edges[column : column + at_once + 1]
        waveform, _ = read_audio(path, (first + bounds[0]) / rate, (bounds[-1] - bounds[0]) / rate)
        starts = bounds[:-1] - bounds[0]
        peaks[column : column + at_once, 0] = np.minimum.reduceat(waveform.amin(dim=0).numpy(), starts)
        peaks[column : column + at_once, 1] = np.maximum.reduceat(waveform.amax(dim=0).numpy(), starts)
        if watch is not None:
            watch(min(1.0, (column + at_once) / columns))
    return peaks


def fewer_columns(peaks: Peaks, columns: int) -> Peaks:
    """Join neighbouring columns."""
    if columns >= len(peaks):
        return peaks
    starts = np.linspace(0, len(peaks), columns + 1).astype(np.int64)[:-1]
    return np.stack([np.minimum.reduceat(peaks[:, 0], starts), np.maximum.reduceat(peaks[:, 1], starts)], axis=1)


def fine_columns(duration: float) -> int:
    """Return the number of columns in which `sounding_part` looks for silence."""
    return max(1, round(duration / _STEP))


def sounding_part(peaks: Peaks, duration: float) -> tuple[float, float] | None:
    """Return start and end in seconds of what is left without silence at both ends; None if nothing is."""
    loud = np.flatnonzero(np.abs(peaks).max(axis=1) > _SILENT)
    if not len(loud):
        return None
    start, end = loud[0] * duration / len(peaks), (loud[-1] + 1) * duration / len(peaks)
    return (0.0, duration) if start + duration - end < _LEAST_CUT else (float(start), float(end))


def write_part(path: Path, segment: Segment) -> None:
    """Write a part of a file as 16-bit wav, block by block."""
    rate, channels = audio_info(segment.path)[1:]
    with soundfile.SoundFile(str(path), "w", rate, channels, "PCM_16", format="WAV") as file:
        first, last = round(segment.start * rate), round((segment.start + segment.duration) * rate)
        last = min(last, audio_info(segment.path).frames)
        for begin in range(first, last, round(_BLOCK * rate)):
            frames = min(round(_BLOCK * rate), last - begin)
            file.write(read_audio(segment.path, begin / rate, frames / rate)[0].T.numpy())


class StemFiles:
    """Wav files of the stems of one segment, written window by window; the `mix` is left out.

    Args:
        folder: Where `STEM.wav` are written.
        stems: Stem layout.
        rate: Sample rate of the stems in Hz.
        start: Start of the segment in its file, in seconds.
    """

    def __init__(self, folder: Path, stems: Sequence[str], rate: int, start: float) -> None:
        self._rate, self._start = rate, start
        self._files = {
            number: soundfile.SoundFile(str(folder / f"{stem}.wav"), "w", rate, 1, "PCM_16", format="WAV")
            for number, stem in enumerate(stems)
            if stem != "mix"
        }

    def write(self, segments: Sequence[Segment], stems: Tensor) -> None:
        """Write the stems `(segment, stem, time)` of windows to their places."""
        for segment, waveforms in zip(segments, stems, strict=True):
            length = round(segment.duration * self._rate)
            for number, file in self._files.items():
                file.seek(round((segment.start - self._start) * self._rate))
                file.write(waveforms[number, :length].float().cpu().numpy())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for file in self._files.values():
            file.close()
