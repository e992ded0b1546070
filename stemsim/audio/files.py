"""Audio files: the one place that opens, decodes and hashes them."""

import hashlib
import io
import logging
import re
import stat
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from stemsim.audio import ffmpeg
from stemsim.audio.waveform import cancels
from stemsim.errors import AudioError, DataNotFoundError
from stemsim.replacing import replacing

_log = logging.getLogger(__name__)

_SUFFIXES = "aac aif aifc aiff ape au bwf caf flac m4a m4b mp2 mp3 oga ogg opus rf64 snd w64 wav wave wma wv"
AUDIO_SUFFIXES: Final = frozenset(f".{name}" for name in _SUFFIXES.split())
"""File name extensions that count as audio, in lower case."""

FileVersion = tuple[Path, int, int]
"""Path, size and modification time (ns) of a file: equal as long as its content is unchanged."""

# libsndfile reads these, by their first bytes; MP3 it reads by a header that may be wrong, and so FFmpeg does.
_SNDFILE: Final = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"fLaC", b"OggS", b"caff", b".snd")
_COUNTED: Final = ("MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III", "GSM610")  # FFmpeg's, in any kind of file
_VORBIS_TAIL: Final = 10.0  # seconds: libsndfile may seek wrongly in the last page of what FFmpeg has written
# libsndfile shortens a chunk that is longer than its file, and only its log says so: `data : 1764 (should be 88)`.
_OVERLONG_CHUNK = re.compile(r"^\s*(?:data|SSND)\s*:\s*(\d+)\s*\(should be (\d+)\)", re.MULTILINE)
# A program that writes a wav file into a pipe cannot know its length and writes the largest number instead.
_STREAMED_LENGTH: Final = 0x7FFF0000
_MOST_MISSING: Final = 0.1  # share of the announced length
_NOTED: Final = 0.1  # seconds
_RATES, _MOST_CHANNELS, _LONGEST = (100, 768_000), 64, 86_400.0  # Hz, number, seconds: no music is beyond
_LOUDEST: Final = 1e5  # full scale is 1


class AudioInfo(NamedTuple):
    """The header of an audio file."""

    frames: int  # samples per channel
    sample_rate: int  # Hz
    channels: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def is_audio_path(path: Path) -> bool:
    """Return whether a file is audio by its name; hidden files, such as `._x.wav` of macOS, are not."""
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


def file_version(path: Path) -> FileVersion:
    """Return a key for caches of a file's content.

    Raises:
        DataNotFoundError: If there is no such file.
        AudioError: If it is a pipe, a device or a folder: reading a pipe may never end.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise DataNotFoundError(
            f"No file at {path} ({getattr(error, 'strerror', error)}). Check the path, or the folder that the "
            "configuration names."
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise AudioError(f"{path} is a folder, a pipe or a device. Expected an audio file.")
    return path, found.st_size, found.st_mtime_ns


def file_hash(path: Path) -> str:
    """Hash the bytes of a file (128-bit BLAKE2b, in hexadecimal); an unchanged file is read once per process.

    Raises:
        DataNotFoundError: If there is no such file, or it cannot be opened.
        AudioError: If it is a pipe, a device or a folder.
    """
    return _hash(file_version(path))


@lru_cache(maxsize=65_536)
def _hash(version: FileVersion) -> str:
    path, *_ = version
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise DataNotFoundError(f"Cannot open {path} ({error.strerror}). Check the permissions of the file.") from error


def audio_info(path: Path) -> AudioInfo:
    """Return the length, sample rate and number of channels of an audio file.

    The length is that of what can be decoded: of formats whose header may be wrong, such as MP3, the samples are
    counted. A file that is a little shorter than its header says is taken as it is, with a warning.

    Raises:
        DataNotFoundError: If there is no such file.
        AudioError: If it is not audio, is empty, lacks over 10 % of the length that its header says, or has a header
            that no music has.
    """
    return _opened(file_version(path)).info


class _Opened(NamedTuple):
    info: AudioInfo
    announced: int  # frames, by its header
    by_sndfile: bool = False  # who is to read it
    tail: int = 0  # frames at the end into which libsndfile must not seek


@lru_cache(maxsize=65_536)
def _opened(version: FileVersion) -> _Opened:
    """Return what a file holds, and how it is to be read."""
    path, *_ = version
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise AudioError(f"Cannot open {path} ({error.strerror}). Check the permissions of the file.") from error
    if not head:
        raise AudioError(f"{path} is empty (0 bytes). Copy or download it again, or remove it from the folder.")
    opened = (_open_sndfile(path) if head in _SNDFILE else None) or _open_ffmpeg(path)
    info, announced, *_ = opened
    if info.frames <= 0:
        raise AudioError(f"{path} holds no samples. Replace it or remove it from the folder.")
    missing = (announced - info.frames) / info.sample_rate
    if missing > _NOTED:
        lengths = f"{info.duration:.3f} s of the {announced / info.sample_rate:.3f} s that its header announces"
        if announced - info.frames > _MOST_MISSING * announced:
            raise AudioError(f"{path} is truncated or damaged: only {lengths} can be read. Copy or download it again.")
        _log.warning("%s: only %s can be read; the rest is missing.", path, lengths)
    return opened


def _open_sndfile(path: Path) -> _Opened | None:
    """Return what libsndfile finds; None if FFmpeg is to read the file."""
    try:
        with soundfile.SoundFile(str(path)) as file:
            info = AudioInfo(file.frames, file.samplerate, file.channels)
            _check_header(path, info)
            # The last sample is where the header says only if the file is whole.
            if file.subtype in _COUNTED or info.frames <= 0 or file.seek(info.frames - 1) < 0 or not len(file.read(1)):
                return None
            tail = round(_VORBIS_TAIL * info.sample_rate) if file.subtype == "VORBIS" else 0
            log = file.extra_info
    except (soundfile.LibsndfileError, OSError):
        return None
    announced = info.frames
    for declared, actual in _OVERLONG_CHUNK.findall(log):
        if 0 < int(actual) < int(declared) < _STREAMED_LENGTH:
            announced = round(info.frames * int(declared) / int(actual))
    return _Opened(info, announced, by_sndfile=True, tail=tail)


def _open_ffmpeg(path: Path) -> _Opened:
    frames, rate, channels, announced = ffmpeg.count_samples(path)
    info = AudioInfo(frames, rate, channels)
    if frames:
        _check_header(path, info)
    return _Opened(info, announced)


def _check_header(path: Path, info: AudioInfo) -> None:
    """Raise if a file claims to be what no recording is, before anything is read or resampled by it."""
    slowest, fastest = _RATES
    if not slowest <= info.sample_rate <= fastest:
        msg = f"{path} has a sample rate of {info.sample_rate} Hz by its header; expected {slowest} to {fastest} Hz."
    elif info.channels > _MOST_CHANNELS:
        msg = f"{path} has {info.channels} channels by its header; expected at most {_MOST_CHANNELS}."
    elif info.duration > _LONGEST:
        msg = f"{path} lasts {info.duration / 3600:.1f} h by its header; expected at most {_LONGEST / 3600:g} h."
    else:
        return
    msg += " The header is damaged, or the file is no recording; convert it or remove it from the folder."
    raise AudioError(msg)


def read_audio(
    path: Path, start: float = 0.0, duration: float | None = None, *, pad: bool = False
) -> tuple[Tensor, int]:
    """Read a part of an audio file; of formats without exact seeking, parts in order are read in one pass.

    Args:
        path: An audio file.
        start: Start of the part in seconds, rounded to the nearest sample.
        duration: Its length in seconds, or None for the rest of the file.
        pad: Fill with zeros beyond the end of the file instead of raising an error.

    Returns:
        The waveform `(channel, time)`, float32 nominally in [-1, 1], and its sample rate in Hz.

    Raises:
        DataNotFoundError: If there is no such file.
        AudioError: If the file cannot be decoded, ends before the part does, or holds samples that are NaN, infinite
            or absurdly large.
    """
    version = file_version(path)
    info, _, by_sndfile, tail = _opened(version)
    first = round(start * info.sample_rate)
    frames = info.frames - first if duration is None else round(duration * info.sample_rate)
    if first < 0 or frames <= 0:
        raise AudioError(
            f"A part of {path} must start at 0 s or later and have a length; asked for {start} s + {duration} s."
        )
    if not pad and first + frames == info.frames + 1:
        first = max(0, first - 1)  # start and duration were both rounded up
    if by_sndfile:
        sought = min(first, max(0, info.frames - tail))
        try:
            read, _ = soundfile.read(str(path), first - sought + frames, sought, dtype="float32", always_2d=True)
            samples = read[first - sought :]
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioError(
                f"Decoding {path} failed at {first / info.sample_rate:.3f} s: {error} The file is damaged; replace it."
            ) from error
    else:
        samples = ffmpeg.decode(version, first, frames)
    if len(samples) < frames and pad:  # (time, channel)
        samples = np.pad(samples, ((0, frames - len(samples)), (0, 0)))
    if len(samples) < frames:
        raise AudioError(
            f"{path} ends too early: asked for {frames / info.sample_rate:.3f} s from {start:.3f} s, got "
            f"{len(samples) / info.sample_rate:.3f} s of a file of {info.duration:.3f} s. "
            "The file is damaged, or the segment was cut from a longer version of it."
        )
    if not np.abs(samples).max() <= _LOUDEST:  # NaN is not
        end = start + frames / info.sample_rate
        seen = f"NaN, infinite or absurdly large samples (full scale is 1) between {start:g} s and {end:g} s"
        raise AudioError(f"{path} holds {seen}. Export it again.")
    waveform = torch.from_numpy(samples).T.contiguous()
    if cancels(waveform):
        _warn_of_cancelling(path)
    return waveform, info.sample_rate


@lru_cache(maxsize=65_536)
def _warn_of_cancelling(path: Path) -> None:
    """Say once in a process how a file is heard."""
    _log.warning("%s: its channels cancel each other out in mono; the louder channel is used instead.", path)


def write_audio(path: Path, waveform: Tensor, sample_rate: int) -> None:
    """Write a waveform `(channel, time)` as 16-bit audio, in the format given by the extension of the file name.

    Samples beyond [-1, 1] are clipped.

    Raises:
        OutputError: If it cannot be written.
    """
    file_format = "AIFF" if path.suffix.lower() == ".aif" else path.suffix[1:]  # soundfile only knows `.aiff`
    content = io.BytesIO()  # libsndfile does not say why a file cannot be written
    soundfile.write(content, waveform.clamp(-1.0, 1.0).T.numpy(), sample_rate, format=file_format)
    with replacing(path) as partial:
        partial.write_bytes(content.getbuffer())
