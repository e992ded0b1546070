"""Audio files, segments of them, and basic operations on waveforms."""

from stemsim.audio.files import AUDIO_SUFFIXES, AudioInfo, audio_info, file_hash, is_audio_path, read_audio, write_audio
from stemsim.audio.segment import Segment, Song, SongFolder, segment_windows
from stemsim.audio.waveform import LEVEL_FLOOR, downmix, fit_length, is_finite, level_dbfs, resample, to_channels

__all__ = [
    "AUDIO_SUFFIXES",
    "LEVEL_FLOOR",
    "AudioInfo",
    "Segment",
    "Song",
    "SongFolder",
    "audio_info",
    "downmix",
    "file_hash",
    "fit_length",
    "is_audio_path",
    "is_finite",
    "level_dbfs",
    "read_audio",
    "resample",
    "segment_windows",
    "to_channels",
    "write_audio",
]
