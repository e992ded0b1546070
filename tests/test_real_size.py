"""The real architectures at real size, loaded in a process of their own whose peak memory is reported.

Run by hand: `pytest -m slow -s tests/test_real_size.py`. It takes minutes, 6 GB of memory and 4 GB of temporary files.
"""

import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from random_models import (
    FOUR,
    REAL_DEMUCS,
    REAL_MUQ,
    SIX,
    upstream_clap,
    upstream_muq_mulan,
    write_clap,
    write_htdemucs,
    write_roberta,
)
from signals import make_signal
from torch.nn.functional import normalize

pytestmark = pytest.mark.slow


def in_its_own_process(tmp_path, make, call, waveforms):
    """Build a model of ours elsewhere, apply it, and return what it gives, its seconds a clip and its peak memory."""
    np.save(tmp_path / "in.npy", waveforms)
    script = f"""
        import re, time
        from pathlib import Path
        import numpy as np
        import torch
        from stemsim.encoders import LaionClap, MuQMuLan
        from stemsim.separators import Demucs
        begin = time.perf_counter()
        model = {make}
        loaded = time.perf_counter()
        waveforms = torch.from_numpy(np.load({str(tmp_path / "in.npy")!r}))
        with torch.inference_mode():
            np.save({str(tmp_path / "out.npy")!r}, {call}.numpy())
        end = time.perf_counter()
        # Not `getrusage`, whose peak includes that of the process which started this one.
        peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
        print(loaded - begin, (end - loaded) / len(waveforms), peak)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True, text=True, timeout=900
    )
    return np.load(tmp_path / "out.npy"), [float(figure) for figure in result.stdout.split()]


def report(capsys, name, parameters, figures, difference):
    load, clip, peak = figures
    with capsys.disabled():
        print(
            f"\n{name}: {parameters / 1e6:.1f} M parameters, loaded in {load:.1f} s, {clip:.2f} s a clip, peak memory "
            f"{peak:,.0f} MB, largest difference to upstream {difference:.1e}"
        )


@pytest.mark.parametrize("architecture", ["HTSAT-tiny", "HTSAT-base"])
def test_laion_clap(tmp_path, capsys, architecture):
    upstream = upstream_clap(write_roberta(tmp_path / "roberta-base"), architecture)
    path = write_clap(tmp_path / "clap.pt", upstream)
    waveforms = np.stack([make_signal(seed, 5.0, 48_000) for seed in range(4)])
    seen, figures = in_its_own_process(tmp_path, f"LaionClap({str(path)!r})", "model(waveforms)", waveforms)
    difference = np.abs(seen - upstream.get_audio_embedding_from_data(waveforms)).max()
    parameters = sum(p.numel() for p in upstream.model.audio_branch.parameters())
    report(capsys, f"LAION-CLAP {architecture}", parameters, figures, difference)
    assert difference <= 1e-6
    assert figures[2] < 2500


def test_muq_mulan(tmp_path, capsys):
    upstream = upstream_muq_mulan(tmp_path, REAL_MUQ)
    waveforms = np.stack([make_signal(seed, 5.0, 24_000) for seed in range(4)])
    folder = str(tmp_path / "MuQ-MuLan-large")
    seen, figures = in_its_own_process(tmp_path, f"MuQMuLan({folder!r})", "model(waveforms)", waveforms)
    with torch.inference_mode():
        expected = normalize(upstream(wavs=torch.from_numpy(waveforms)), dim=1).numpy()
    difference = np.abs(seen - expected).max()
    parameters = sum(p.numel() for p in upstream.mulan.audio.parameters())
    report(capsys, "MuQ-MuLan-large, audio half", parameters, figures, difference)
    assert difference <= 1e-5
    assert figures[2] < 5000


@pytest.mark.parametrize(("name", "sources"), [("htdemucs", FOUR), ("htdemucs_6s", SIX)])
def test_demucs(tmp_path, capsys, name, sources):
    from demucs.api import Separator

    folder = write_htdemucs(tmp_path / name, name, sources, **REAL_DEMUCS[len(sources)])
    waveforms = np.stack([make_signal(seed, 5.0, 44_100, channels=2) for seed in range(2)])
    seen, figures = in_its_own_process(tmp_path, f"Demucs({str(folder)!r})", "model(waveforms)", waveforms)
    separator = Separator(name, repo=folder, shifts=0, device="cpu")
    begin = time.perf_counter()
    stems = ["bass", "drums", *(["guitar", "piano"] if len(sources) > 4 else []), "vocals", "other"]
    difference = 0.0
    for clip, ours in zip(waveforms, seen, strict=True):
        _, separated = separator.separate_tensor(torch.from_numpy(clip))
        expected = torch.stack([separated[stem] for stem in stems]).numpy()
        difference = max(difference, float(np.abs(ours[:-1] - expected).max()))
        assert expected.std() > 1e-3
    parameters = sum(p.numel() for p in separator.model.parameters())
    report(
        capsys, f"{name} (upstream {(time.perf_counter() - begin) / 2:.2f} s a clip)", parameters, figures, difference
    )
    assert difference <= 1e-5
    assert figures[2] < 2500
