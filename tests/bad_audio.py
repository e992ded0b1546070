"""Audio files of every kind that users have, good and bad, and what each is to lead to wherever it goes in."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soundfile
from signals import make_signal

Kind = Literal["works", "silent", "refused"]
RATE = 44_100
SECONDS = 0.5


@dataclass(frozen=True)
class Case:
    """A file, and what every entry is to make of it."""

    name: str
    write: Callable[[Path], object]  # writes it to a path
    kind: Kind = "works"
    reason: str = ""  # that a refusal gives
    file: str = "x.wav"
    short: bool = False  # too short for the encoder: refused where a clip is embedded as it is, padded elsewhere
    plain: bool = True  # a file with bytes in it, which a page can send
    long: bool = False  # takes seconds


def encoded(path, codec, sound, rate=RATE, container=None, options=None):
    """Write mono audio `(time,)` by FFmpeg, for what libsndfile cannot write."""
    with av.open(path, "w", format=container, options=options or {}) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono", bit_rate=128_000)
        frame = av.AudioFrame.from_ndarray((np.asarray(sound)[None] * 32767).astype(np.int16), "s16", "mono")
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    return path


def without_tag(content):
    """Drop the first frame of an MP3, which holds the number of frames and no sound."""
    return content[content.index(content[:2], 100) :]


def signal(seconds=SECONDS, rate=RATE, channels=None):
    """Return a sound `(time,)` or `(time, channel)`."""
    return 0.5 * make_signal(0, seconds, rate, channels=channels).T


def pcm(samples, rate=RATE, **options):
    """Return a function that writes samples `(time,)` or `(time, channel)`."""
    options = {"format": "WAV", **options}
    return lambda path: soundfile.write(path, samples(), rate, **options)


def changed(write, change):
    """Return a function that writes a file and then changes its bytes."""

    def both(path):
        write(path)
        path.write_bytes(change(path.read_bytes()))

    return both


def by_ffmpeg(codec, container=None, rate=48_000):
    """Return a function that writes a sound by FFmpeg."""
    return lambda path: encoded(path, codec, signal(SECONDS, rate), rate, container)


def with_size(chunk, value):
    """Return a function that gives a chunk of a wav file another size in its header."""

    def change(content):
        at = content.index(chunk) + 4
        return content[:at] + value.to_bytes(4, "little") + content[at + 4 :]

    return change


def with_chunk(content, *, before=False, length=7):
    """Add a chunk of odd length, padded as it has to be, before or after the samples."""
    at = content.index(b"data") if before else len(content)
    chunk = b"junk" + length.to_bytes(4, "little") + bytes(length + length % 2)
    content = content[:at] + chunk + content[at:]
    return with_size(b"RIFF", len(content) - 8)(content)


def half(content):
    """Cut a file in half."""
    return content[: len(content) // 2]


def spoilt(value):
    """Return samples with one that is no number."""

    def samples():
        sound = signal().astype(np.float32)
        sound[len(sound) // 2] = value
        return sound

    return pcm(samples, subtype="FLOAT")


def noise(level):
    """Return white noise of a level in dBFS."""
    return np.random.default_rng(0).normal(size=round(SECONDS * RATE)) * 10 ** (level / 20)


def mp3(mode="CONSTANT"):
    """Return a function that writes an MP3."""
    return pcm(signal, format="MP3", subtype=None, bitrate_mode=mode, compression_level=0.5)


def pipe(path):
    """Make a pipe, the reading of which would never end."""
    os.mkfifo(path)


WAV = pcm(signal)
PICTURE = b"ID3\x04\x00\x00\x00\x06\x00\x00" + bytes(6 << 14)
TRUNCATED = "truncated or damaged"
SUBTYPES = (
    "PCM_U8",
    "PCM_16",
    "PCM_24",
    "PCM_32",
    "FLOAT",
    "DOUBLE",
    "MS_ADPCM",
    "IMA_ADPCM",
    "ALAW",
    "ULAW",
    "GSM610",
)
RATES = (8000, 11_025, 16_000, 22_050, 32_000, 48_000, 88_200, 96_000, 192_000)
NAMES = {
    "NFC": "Caf\u00e9 \u00fc.wav",
    "NFD": "Cafe\u0301 u\u0308.wav",
    "250 bytes": "\u00e9" * 123 + ".wav",
    "newline": "new\nline\r\ttab.wav",
    "emoji": "🥁 鼓.wav",
    "markup": "[red]<b> %s {0} '\"*?$(x).wav",
    "dash": "--help.wav",
    "upper case": "X.WAV",
}

CASES = (
    # lengths
    Case("no samples", pcm(lambda: np.zeros(0)), "refused", "holds no samples"),
    Case("one sample", pcm(lambda: np.full(1, 0.5)), short=True),
    Case("20 ms", pcm(lambda: signal(0.02))),
    Case("4.969 s", pcm(lambda: signal(219_136 / RATE))),
    Case("10 s", pcm(lambda: signal(10.0))),
    Case("10 s and a sample", pcm(lambda: signal(10.0 + 1 / RATE))),
    Case("10 min", pcm(lambda: signal(600.0, 8000), 8000), long=True),
    # samples
    Case("silence", pcm(lambda: np.zeros(RATE)), "silent"),
    Case("noise of -90 dBFS", pcm(lambda: noise(-90), subtype="FLOAT"), "silent"),
    Case("DC", pcm(lambda: np.full(RATE, 0.5))),
    Case("clipping", pcm(lambda: np.clip(40 * signal(), -1, 1))),
    Case("beyond full scale", pcm(lambda: 40 * signal(), subtype="FLOAT")),
    Case("NaN", spoilt(np.nan), "refused", "NaN"),
    Case("infinity", spoilt(np.inf), "refused", "infinite"),
    Case("1e30", spoilt(1e30), "refused", "absurdly large"),
    # channels, rates and coding
    Case("stereo", pcm(lambda: signal(channels=2))),
    Case("opposite phase", pcm(lambda: signal()[:, None] * [1, -1])),
    Case("6 channels", pcm(lambda: signal(channels=6))),
    *(Case(f"{rate} Hz", pcm(lambda rate=rate: signal(SECONDS, rate), rate)) for rate in RATES),
    *(Case(subtype, pcm(signal, subtype=subtype)) for subtype in SUBTYPES),
    Case("8-bit aiff", pcm(signal, format="AIFF", subtype="PCM_S8"), file="x.aiff"),
    Case("aiff-c", pcm(signal, format="AIFF", subtype="FLOAT"), file="x.aifc"),
    Case("rf64", pcm(signal, format="RF64")),
    Case("w64", pcm(signal, format="W64"), file="x.w64"),
    Case("caf", pcm(signal, format="CAF"), file="x.caf"),
    Case("flac", pcm(signal, format="FLAC"), file="x.flac"),
    Case("ogg", pcm(signal, format="OGG"), file="x.ogg"),
    Case("opus", by_ffmpeg("libopus"), file="x.opus"),
    Case("aac", by_ffmpeg("aac"), file="x.m4a"),
    Case("raw aac", by_ffmpeg("aac"), file="x.aac"),
    Case("alac", by_ffmpeg("alac"), file="x.m4a"),
    Case("wma", by_ffmpeg("wmav2"), file="x.wma"),
    # headers
    Case("data of size 0", changed(WAV, with_size(b"data", 0))),
    Case("data of unknown size", changed(WAV, with_size(b"data", 0xFFFFFFFF))),
    Case("RIFF of size 0", changed(WAV, with_size(b"RIFF", 0))),
    Case("RIFF of unknown size", changed(WAV, with_size(b"RIFF", 0xFFFFFFFF))),
    Case("chunk after the samples", changed(WAV, with_chunk)),
    Case("odd chunk before the samples", changed(WAV, lambda content: with_chunk(content, before=True))),
    Case("half a sample at the end", changed(WAV, lambda content: content + b"\x01")),
    Case(
        "2 GHz", changed(WAV, lambda content: content[:24] + b"\0\x94\x35\x77" + content[28:]), "refused", "Hz by its"
    ),
    Case("mp3", mp3(), file="x.mp3"),
    Case("mp3 CBR without header", changed(mp3(), without_tag), file="x.mp3"),
    Case("mp3 VBR without header", changed(mp3("VARIABLE"), without_tag), file="x.mp3"),
    Case("mp3 with a large tag", changed(mp3(), lambda content: PICTURE + content), file="x.mp3"),
    Case("mp3 named wav", mp3()),
    Case("mp3 in wav", by_ffmpeg("libmp3lame", "wav")),
    Case("wav named mp3", WAV, file="x.mp3"),
    # damage
    Case("empty", Path.touch, "refused", "is empty"),
    Case("text", lambda path: path.write_text("These are the words.\n" * 40), "refused", "Cannot read"),
    Case("header only", changed(WAV, lambda content: content[:20]), "refused", "Cannot read"),
    Case("half a wav", changed(WAV, half), "refused", TRUNCATED),
    Case("half an aiff", changed(pcm(signal, format="AIFF"), half), "refused", TRUNCATED, "x.aiff"),
    Case("half a flac", changed(pcm(signal, format="FLAC"), half), "refused", TRUNCATED, "x.flac"),
    Case("half an mp3", changed(mp3(), half), "refused", TRUNCATED, "x.mp3"),
    Case("half an m4a", changed(by_ffmpeg("aac"), half), "refused", "Cannot read", "x.m4a"),
    Case("half an ogg", changed(pcm(lambda: signal(6.0), format="OGG"), half), file="x.ogg"),  # it announces no length
    Case("half an opus", changed(by_ffmpeg("libopus"), half), "refused", "Cannot read", "x.opus"),
    # what is no plain file
    Case("nothing", lambda _: None, "refused", "No file", plain=False),
    Case("pipe", pipe, "refused", "a pipe", plain=False),
    Case("folder", Path.mkdir, "refused", "is a folder", plain=False),
    Case("link to itself", lambda path: path.symlink_to(path), "refused", "symbolic links", plain=False),
    Case(
        "link to nothing", lambda path: path.symlink_to(path.with_name("y.wav")), "refused", "No such file", plain=False
    ),
    *(Case(f"name: {name}", WAV, file=file) for name, file in NAMES.items()),
)


def write_cases(root):
    """Write all files but the long ones, each in a folder of its own; return their paths by the names of the cases."""
    paths = {}
    for number, case in enumerate(CASES):
        folder = root / f"{number:02d}"
        folder.mkdir()
        paths[case.name] = folder / case.file
        if not case.long:
            case.write(paths[case.name])
    return paths
