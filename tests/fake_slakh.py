"""A tiny Slakh2100: the layout and metadata of the real one, and music that is cheap to make."""

import hashlib

import numpy as np
import soundfile
import yaml

# (stem, class, General MIDI program, its name, plugin, whether it was rendered); classes as Slakh2100 names them.
STEMS = (
    ("S00", "Bass", 33, "Electric Bass (finger)", "classic_bass.nkm", True),
    ("S01", "Drums", 128, "Drums", "ar_modern_sparkle_kit_full.nkm", True),
    ("S02", "Guitar", 25, "Acoustic Guitar (steel)", "elektrik_guitar.nkm", True),
    ("S03", "Guitar", 29, "Overdriven Guitar", "jazz_guitar_amped.nkm", True),
    ("S04", "Piano", 1, "Bright Acoustic Piano", "the_grandeur.nkm", True),
    ("S05", "Strings (continued)", 50, "SynthStrings 1", "string_ensemble.nkm", True),
    ("S06", "Synth Pad", 89, "Pad 2 (warm)", "afterglow.nkm", False),
    ("S07", "Organ", 16, "Drawbar Organ", "vintage_organs.nkm", True),
)
LOOP_SECONDS = 4.0
COARSE = 256  # samples are multiples of this, and rests are silent: flac makes them small


def write_fake_slakh(root, track_ids, *, seconds, seed, sample_rate=8000, stems=STEMS):
    """Write tracks `Track01876/{mix.flac, metadata.yaml, stems/S00.flac ...}`; return the folders of the tracks.

    Each rendered stem is a loop of one tone, with a rhythm of its own; the mix is the exact sum of the stems. A stem
    that was not rendered is in the metadata alone.

    Args:
        root: Folder to write to; made if there is none.
        track_ids: Numbers of the tracks.
        seconds: Length of the tracks in seconds, or a length for each track number.
        seed: Seed of the music: tones and rhythms differ by seed, track and stem.
        sample_rate: In Hz.
        stems: As `STEMS`.
    """
    folders = []
    for track in track_ids:
        folder = root / f"Track{track:05d}"
        (folder / "stems").mkdir(parents=True)
        length = seconds[track] if isinstance(seconds, dict) else seconds
        frames = int(np.ceil(length * sample_rate))
        mix = np.zeros(frames, np.int16)
        for index, stem in enumerate(stems):
            if stem[-1]:
                rng = np.random.default_rng([seed, track, index])
                waveform = np.resize(_loop(rng, sample_rate, peak=32767 // len(stems)), frames)
                soundfile.write(folder / "stems" / f"{stem[0]}.flac", waveform, sample_rate)
                mix += waveform
        soundfile.write(folder / "mix.flac", mix, sample_rate)
        (folder / "metadata.yaml").write_text(yaml.safe_dump(_metadata(track, stems)), encoding="utf-8")
        folders.append(folder)
    return folders


def _loop(rng, sample_rate, *, peak):
    """Return a loop of a few beats of one tone and rests, int16."""
    time = np.arange(int(LOOP_SECONDS * sample_rate)) / sample_rate
    tone = np.sin(2 * np.pi * rng.uniform(0.02, 0.4) * sample_rate * time)
    beats = rng.integers(4, 24)
    phase = time * beats / LOOP_SECONDS % 1.0  # within the beat
    waveform = peak * tone * np.exp(-rng.uniform(1.0, 6.0) * phase) * (phase < rng.uniform(0.2, 0.5))
    return (waveform / COARSE).astype(np.int16) * np.int16(COARSE)


def _metadata(track, stems):
    """Return what the metadata.yaml of a track says."""
    uuid = hashlib.md5(str(track).encode(), usedforsecurity=False).hexdigest()
    return {
        "UUID": uuid,
        "audio_dir": "stems",
        "lmd_midi_dir": f"lmd_matched/A/B/C/TRABC{track:013d}/{uuid}.mid",
        "midi_dir": "MIDI",
        "normalization_factor": -13.0,
        "normalized": True,
        "overall_gain": 0.18270259567062658,
        "stems": {
            name: {
                "audio_rendered": rendered,
                "inst_class": inst_class,
                "integrated_loudness": -13.0 - index / 10,
                "is_drum": inst_class == "Drums",
                "midi_program_name": program_name,
                "midi_saved": True,
                "plugin_name": plugin,
                "program_num": program,
            }
            for index, (name, inst_class, program, program_name, plugin, rendered) in enumerate(stems)
        },
        "target_peak": -1.0,
    }
