"""The paper's pipeline, end to end, on small random models that lie where a download would put the real ones."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from random_models import LOW_RATE, REAL_RATE, write_pretrained

import stemsim
from stemsim.audio import Segment, read_audio
from stemsim.embedding import StemEmbedder
from stemsim.encoders import LaionClap, MuQMuLan
from stemsim.separators import Demucs, Multitrack
from stemsim.stems import LAYOUTS
from stemsim.training.cli import StemsimCLI, main

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
CSV = ["-c", str(CONFIGS / "logger/csv.yaml")]


@pytest.fixture(scope="module", autouse=True)
def pretrained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = write_pretrained(tmp_path_factory.mktemp("pretrained"), clap=True, rates=(REAL_RATE, LOW_RATE))
        patch.setenv("STEMSIM_PRETRAINED", str(root))
        yield root


@pytest.fixture(scope="module")
def songs(shared_data):
    folder = shared_data / "everything-is-free"
    if not folder.is_dir():
        pytest.skip(f"no songs at {folder}")
    return sorted(folder.glob("*/mix.ogg"))


def run(job, folder, *arguments):
    given = ["--data.triplets", str(CONFIGS / "triplets/everything_is_free.yaml"), "--data.progress", "false"]
    root = ["--trainer.default_root_dir", str(folder), "--data.store", str(folder / "store")]
    return main([job, "-c", str(CONFIGS / "muq_6stem.yaml"), *CSV, *given, *root, *arguments])


def test_muq_6stem_fits_tests_and_resumes_on_real_songs(songs, tmp_path, shared_data, monkeypatch):
    monkeypatch.setenv("STEMSIM_DATA", str(shared_data))
    few = ["--data.triplets.init_args.triplets", "12", "--data.triplets.init_args.duration", "3"]
    few += ["--data.triplets.init_args.hop", "60"]  # the triplets share segments
    cli = run("fit", tmp_path, *few)
    store = cli.datamodule.embedder.store
    stored = len(store)
    assert stored == len(set(cli.datamodule.embedded.triplets.segments))
    assert store.spec.stems == LAYOUTS["6-stem"]
    checkpoint = str(tmp_path / "checkpoints/last.ckpt")
    run("test", tmp_path, *few, "--ckpt_path", checkpoint)
    assert 0.0 <= json.loads((tmp_path / "test.json").read_text())["metrics"]["test/agreement"] <= 1.0
    again = run("fit", tmp_path, *few, "--ckpt_path", checkpoint)
    assert len(again.datamodule.embedder.store) == stored
    torch.testing.assert_close(again.model.fusion.weight, cli.model.fusion.weight, atol=1e-6, rtol=1e-6)
    sim = stemsim.load(tmp_path / "model")  # what the fit saved names encoder and separator
    assert sim.weights == pytest.approx(dict(zip(LAYOUTS["6-stem"], cli.model.fusion.weight.tolist(), strict=True)))
    segments = cli.datamodule.embedded.triplets.segments
    expected = cli.datamodule.embedded.embeddings.take(torch.tensor([0, 1]))
    seen = sim.embed([segments[0], segments[1]])
    torch.testing.assert_close(seen.vectors, expected.vectors, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("encoder", "stems", "true"), list(itertools.product(["clap", "muq"], ["4stem", "6stem"], [False, True]))
)
def test_every_configuration_builds_the_model_that_it_names(encoder, stems, true, tmp_path):
    config = str(CONFIGS / f"{encoder}_{stems}.yaml")
    other = ["--data.separator", str(CONFIGS / f"separators/true_{stems}.yaml")] if true else []
    cli = StemsimCLI(["-c", config, *CSV, *other, "--data.store", str(tmp_path / "store")], run=False)
    embedder = cli.datamodule.embedder
    assert isinstance(embedder.encoder, LaionClap if encoder == "clap" else MuQMuLan)
    assert isinstance(embedder.source, Multitrack if true else Demucs)
    assert cli.model.stems == list(LAYOUTS[f"{stems[0]}-stem"])
    assert embedder.silence is None


def test_the_mert_configuration_names_what_is_missing(tmp_path):
    config = {"data": {"encoder": str(CONFIGS / "encoders/mert.yaml")}}
    (tmp_path / "mert.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    arguments = ["-c", str(CONFIGS / "everything_is_free.yaml"), "-c", str(tmp_path / "mert.yaml"), *CSV]
    with pytest.raises(stemsim.errors.DataNotFoundError, match="stemsim models download m-a-p/MERT-v1-95M"):
        StemsimCLI([*arguments, "--data.store", str(tmp_path / "store")], run=False)


@pytest.mark.parametrize("name", stemsim.available_models())
def test_ready_made_models_compare_real_songs(name, songs):
    sim = stemsim.load(name)
    both = sim.embed([Segment(songs[0], 10.0, 2.0), Segment(songs[1], 10.0, 2.0)])
    a, b = both.take([0]), both.take([1])
    whole = sum(sim.weights.values())
    assert sim(a, a) == pytest.approx(whole, abs=1e-4)
    explanation = sim.explain(a, b)
    assert sum(explanation.contributions.values()) == pytest.approx(sim(a, b), abs=1e-9)
    assert sim.prefer(a, a, b) == -sim.prefer(a, b, a) > 0.0
    assert sim(read_audio(songs[0], 10.0, 2.0), a) == pytest.approx(whole, abs=1e-4)


def test_another_process_gives_the_same_numbers(songs, tmp_path):
    segments = [Segment(songs[index], 10.0, 3.0) for index in (0, 1, 2)]
    here = StemEmbedder(Demucs("htdemucs_6s"), MuQMuLan(), silence=None, progress=False).embed(segments)
    script = f"""
from pathlib import Path
import numpy as np
from stemsim.audio import Segment
from stemsim.embedding import StemEmbedder
from stemsim.encoders import MuQMuLan
from stemsim.separators import Demucs
segments = [Segment(Path(path), 10.0, 3.0) for path in {[str(segment.path) for segment in reversed(segments)]}]
separator = Demucs("htdemucs_6s")
embedder = StemEmbedder(separator, MuQMuLan(), silence=None, progress=False, batch_size=2, workers=1)
np.save({str(tmp_path / "there.npy")!r}, embedder.embed(segments).vectors.numpy())
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
    there = np.load(tmp_path / "there.npy")[::-1]
    assert np.abs(there - here.vectors.numpy()).max() <= 1e-5
