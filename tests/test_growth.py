"""What a larger library needs: measured on real items, and computed."""

import json
from dataclasses import asdict, replace

import pytest
from fakes import CountingEncoder, write_songs
from typer.testing import CliRunner

from stemsim.cli import app
from stemsim.embedding import StemEmbedder
from stemsim.encoders import Spectral
from stemsim.errors import ConfigError, DataNotFoundError
from stemsim.retrieval import Library
from stemsim.retrieval.growth import CostPerItem, measure_cost, needs
from stemsim.separators import MixOnly

COST = CostPerItem("e", "s", "cpu", 2, 10, 0.36, 0.72, 1000, 7200.0, 3600.0, 0.0018, 0.0018, 1e-7, 0.01)


def test_needs_are_the_cost_times_the_items():
    found = needs(COST, 10_000_000)
    assert (found.row_gigabytes, found.code_gigabytes) == pytest.approx((72.0, 36.0))
    assert (found.machine_hours, found.core_hours) == pytest.approx((1000.0, 2000.0))
    assert found.index_hours == pytest.approx(10.0)
    assert found.search_seconds == pytest.approx(1.01)
    assert needs(replace(COST, seconds=0.72), 10_000_000).machine_hours == pytest.approx(2000.0)
    with pytest.raises(ConfigError, match="at least 1 item"):
        needs(COST, 0)


def test_the_command_measures_the_librarys_own_files_and_leaves_it_as_it_was(tmp_path):
    write_songs(tmp_path / "songs", 2, 3.0)
    library = Library(tmp_path / "library", StemEmbedder(MixOnly(), Spectral(), progress=False), window=1.0)
    library.add(tmp_path / "songs")
    before, width = library.stats(), library.card.dim
    arguments = ["index", "plan", "-l", str(library.root), "--items", "1000000", "--sample", "4", "--made", "4000"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    found = json.loads(done.stdout)
    measured = found["measured"]
    assert measured["items"] >= 4
    assert 0.0 < measured["seconds"] < 10.0
    assert 2 * width < measured["row_bytes"] < 2 * width + 1000  # float16, and what is known of the item
    assert 0.9 * width < measured["code_bytes"] < 2 * width  # 8 bits a component
    assert found["needs"] == asdict(needs(CostPerItem(**measured), 1_000_000))
    assert library.stats() == before


def test_what_cannot_be_measured_is_said(tmp_path):
    songs = write_songs(tmp_path / "songs", 1, 2.0)
    library = Library(tmp_path / "library", StemEmbedder(MixOnly(), CountingEncoder(), progress=False), window=1.0)
    with pytest.raises(DataNotFoundError, match="add some first"):
        measure_cost(library)
    library.add(songs[0], listen=False)
    with pytest.raises(ConfigError, match="1 item and 4000 synthetic ones; got 32 and 5"):
        measure_cost(library, made=5)
