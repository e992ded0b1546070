"""Items of a library: the windows that a file is cut into."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stemsim.audio import Segment, audio_info
from stemsim.errors import ConfigError

__all__ = ["Windowing"]

_TAIL: Final = 0.25  # of a window: a shorter rest of a file is left out
_TOLERANCE: Final = 1e-5  # seconds: 80 s of 5 s windows are 16, whatever the floats say
_STEP: Final = 0.1  # seconds, to a multiple of which short clips are filled up with silence


@dataclass(frozen=True, slots=True)
class Windowing:
    """How files are cut into items.

    Attributes:
        length: Length of a window in seconds. A shorter file, such as a one-shot, is one item.
        hop: From one window's start to the next, in seconds; None: `length`, so that windows do not overlap.
    """

    length: float = 5.0
    hop: float | None = None

    def __post_init__(self) -> None:
        """Verify that windows have a length and go forward."""
        for value in (self.length, self.step):
            if not math.isfinite(value) or value <= 0.0:
                msg = f"Windows need a length and a hop above 0 s; got {self.length} s and {self.hop} s."
                raise ConfigError(msg)
        if self.step > self.length:
            msg = (
                f"With a hop of {self.hop} s windows of {self.length} s leave parts of a file out. "
                "Choose a hop no longer than the window."
            )
            raise ConfigError(msg)

    @property
    def step(self) -> float:
        """From one window's start to the next, in seconds."""
        return self.length if self.hop is None else self.hop

    def spans(self, duration: float) -> list[tuple[float, float]]:
        """Cut a duration into windows.

        What the windows leave over at the end, if it is a quarter of a window or more, is covered by one more window
        that ends where the file does and so overlaps the one before it.

        Args:
            duration: In seconds.

        Returns:
            Start and length of each window in seconds, in order; one span, if it is shorter than a window.
        """
        if duration <= self.length * (1.0 + _TAIL):
            return [(0.0, min(duration, self.length))]
        count = int((duration - self.length + _TOLERANCE) / self.step) + 1
        starts = [number * self.step for number in range(count)]
        if duration - (starts[-1] + self.length) >= _TAIL * self.length:
            starts.append(duration - self.length)
        return [(start, self.length) for start in starts]

    def cut(self, path: Path) -> list[Segment]:
        """Cut a file into items.

        Args:
            path: An audio file.

        Returns:
            Its windows, in order.

        Raises:
            AudioError: If the file cannot be read.
            DataNotFoundError: If it is not there.
        """
        return [Segment(path, start, length) for start, length in self.spans(audio_info(path).duration)]

    def filled(self, duration: float, shortest: float) -> float:
        """Return the duration up to which a clip shorter than a window is filled with silence before it is embedded.

        Encoders need a shortest duration, and clips of equal duration can be embedded in one batch: a tenth of a second
        at most is added for the sake of that. A full window is never filled.

        Args:
            duration: Of the clip, in seconds.
            shortest: What the encoder needs, in seconds.

        Returns:
            Seconds.
        """
        if duration >= self.length and duration >= shortest:
            return duration
        steps = math.ceil(max(duration, shortest) / _STEP - 1e-6)  # 0.3 s are three tenths, whatever the floats say
        return max(duration, steps * _STEP)
