"""Decoding by FFmpeg, through PyAV: MP3 and other streams whose headers do not tell their length, AAC, WMA and more.

The length is counted by decoding. A file is handed to FFmpeg as an open file and not by its name, so that a playlist
or a strange name cannot make it open anything else.
"""

import atexit
import io
import re
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from stemsim.errors import AudioError

if TYPE_CHECKING:
    from av import AudioFrame
    from av.audio import AudioStream
    from av.container import InputContainer

Samples = npt.NDArray[np.float32]


_FORMATS: Final = "mp3,mov,aac,asf,wav,w64,aiff,flac,ogg,caf,au,wv,ape,matroska,voc"
_LENGTH_IN_HEADER: Final = ("mov", "asf", "flac", "matroska", "ape", "wv")  # how the names of such formats begin
_PADDING: Final = 3  # most frames of MP3 that hold only the delay and the padding of the encoder
_PATIENCE: Final = 600.0  # seconds of decoding one file
_MOST_IDLE: Final = 8  # decoders that are kept
_HEADER: Final = 65_536  # bytes in which a tag of MP3, or Ogg inside RIFF, begins
_XING: Final = re.compile(rb"(?:Xing|Info)\x00\x00\x00[\x01\x03\x05\x07\x09\x0b\x0d\x0f](.{4})", re.DOTALL)


class Counted(NamedTuple):
    """Result of decoding a whole file."""

    frames: int  # samples per channel
    sample_rate: int  # Hz
    channels: int
    announced: int  # frames that its header promises at least; 0 if it promises nothing


def count_samples(path: Path) -> Counted:
    """Decode a whole file and count its samples.

    Raises:
        AudioError: If it is not audio in a format that FFmpeg is asked to read, or takes too long.
    """
    with _opened(path) as (container, stream):
        frames, rate, channels = 0, 0, 0
        deadline = time.monotonic() + _PATIENCE
        for frame in _decoded(container, stream):
            if time.monotonic() > deadline:
                raise AudioError(
                    f"Decoding {path} takes more than {_PATIENCE:g} s. Convert it to wav or flac, or cut it."
                )
            rate, channels = rate or frame.sample_rate, channels or len(frame.layout.channels)
            frames += frame.samples
        announced = 0.0
        if container.format.name == "mp3" and (tag := _XING.search(_after_id3(path))):
            announced = (int.from_bytes(tag[1]) - _PADDING) * stream.codec_context.frame_size
        elif container.format.name.startswith(_LENGTH_IN_HEADER) and stream.duration and stream.time_base:
            announced = float(stream.duration * stream.time_base) * rate
    return Counted(frames, rate, channels, max(0, round(announced)))


def decode(version: tuple[Path, int, int], first: int, frames: int) -> Samples:
    """Decode a part of a file.

    Seeking is not exact in these formats, so that the last decoders are kept: parts of one file in order are read in a
    single pass.

    Args:
        version: The file, with its size and time of modification.
        first: Number of its first sample, counted from 0.
        frames: Number of samples per channel.

    Returns:
        Samples `(time, channel)`, nominally in [-1, 1]; fewer than `frames` if the file ends before.

    Raises:
        AudioError: If the file cannot be decoded.
    """
    with _lock:
        usable = [decoder for decoder in _idle if decoder.version == version and decoder.start <= first]
        decoder = max(usable, key=lambda one: one.start, default=None)
        if decoder is not None:
            _idle.remove(decoder)
    decoder = decoder or _Decoder(version)
    part = decoder.read(first, frames)
    with _lock:
        _idle.append(decoder)
        surplus = [_idle.pop(0) for _ in range(len(_idle) - _MOST_IDLE)]
    for one in surplus:
        one.blocks.close()
    return part


class _Decoder:
    """A decoder somewhere in a file, with the blocks `(time, channel)` of the last part, which the next may overlap."""

    def __init__(self, version: tuple[Path, int, int]) -> None:
        self.version = version
        self.start = 0  # of what is held
        self.held: deque[Samples] = deque()
        self.blocks = _blocks(version[0])

    def read(self, first: int, frames: int) -> Samples:
        end = self.start + sum(map(len, self.held))
        while end < first + frames and (block := next(self.blocks, None)) is not None:
            self.held.append(block)
            end += len(block)
            while self.held and self.start + len(self.held[0]) <= first:
                self.start += len(self.held.popleft())
        while len(self.held) > 1 and self.start + len(self.held[0]) <= first:
            self.start += len(self.held.popleft())
        if not self.held:
            return np.zeros((0, 1), np.float32)
        return np.concatenate(self.held)[first - self.start :][:frames]


# Not one for each thread: FFmpeg calls Python when it is closed, which crashes in a thread that is ending.
_idle: list[_Decoder] = []
_lock = threading.Lock()
atexit.register(_idle.clear)


def _blocks(path: Path) -> Generator[Samples]:
    """Yield all samples of a file, `(time, channel)`."""
    from av import AudioResampler

    with _opened(path) as (container, stream):
        to_float: AudioResampler | None = None
        for frame in _decoded(container, stream):
            # Not one plane for each channel: PyAV crashes with more than 8 of them.
            to_float = to_float or AudioResampler("flt", frame.layout, frame.sample_rate)
            for converted in to_float.resample(frame):
                yield converted.to_ndarray().astype(np.float32, copy=False).reshape(-1, len(frame.layout.channels))


@contextmanager
def _opened(path: Path) -> "Iterator[tuple[InputContainer, AudioStream]]":
    """Open the first audio stream of a file; errors of FFmpeg become ours."""
    import av

    try:
        with _stripped(path) as file, av.open(file, options={"format_whitelist": _FORMATS}) as container:
            if not container.streams.audio:
                raise AudioError(f"{path} has no audio. Replace it or remove it from the folder.")
            yield cast("InputContainer", container), container.streams.audio[0]
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        formats = "Expected wav, flac, ogg, opus, mp3, aiff, m4a or another common format."
        raise AudioError(
            f"Cannot read {path} as audio ({reason}). {formats} Replace it or remove it from the folder."
        ) from error


def _stripped(path: Path) -> IO[bytes]:
    """Open a file; of Ogg Vorbis inside RIFF (format 0x674F), which FFmpeg does not know, the Ogg part."""
    file = path.open("rb")
    head = file.read(_HEADER)
    file.seek(0)
    if head[:4] == b"RIFF" and head[20:22] == b"\x4f\x67":
        with file:
            return io.BytesIO(file.read()[max(0, head.find(b"OggS")) :])
    return file


def _decoded(container: "InputContainer", stream: "AudioStream") -> "Iterator[AudioFrame]":
    """Decode what can be decoded; packets that cannot are left out, as players do."""
    import av

    begun: tuple[int, int] | None = None
    for packet in container.demux(stream):
        try:
            frames: Any = packet.decode()
        except av.InvalidDataError:
            continue
        for frame in frames:
            seen = (frame.sample_rate, len(frame.layout.channels))
            begun = begun or seen
            if seen != begun:
                raise ValueError(f"it begins with (Hz, channels) {begun} and goes on with {seen}")
            yield frame


def _after_id3(path: Path) -> bytes:
    """Return the first bytes of an MP3 file after its ID3 tag, which may hold a large picture."""
    with path.open("rb") as file:
        head = file.read(10)
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)) + 10
        file.seek(size if head[:3] == b"ID3" and len(head) == 10 else 0)  # noqa: PLR2004 - the length of its header
        return file.read(_HEADER)
