"""Libraries in an object storage: a stand-in for S3 on loopback."""

import json
import multiprocessing

import pytest
from fakes import write_songs
from typer.testing import CliRunner

from stemsim.cli import app
from stemsim.embedding import StemEmbedder
from stemsim.encoders import Spectral
from stemsim.errors import DataNotFoundError, StoreError
from stemsim.retrieval import ItemFilter, Library
from stemsim.separators import Bands

server = pytest.importorskip("moto.server", reason="moto is not installed")


@pytest.fixture(scope="module")
def endpoint():
    """The address of a storage with one bucket, `sounds`."""
    import boto3

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "name", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=address, **keys).create_bucket(Bucket="sounds")
    yield address
    running.stop()


@pytest.fixture(scope="module")
def options(endpoint):
    return {
        "aws_endpoint": endpoint,
        "aws_access_key_id": "name",
        "aws_secret_access_key": "secret",
        "aws_region": "us-east-1",
        "allow_http": "true",
    }


def embedder():
    return StemEmbedder(Bands(), Spectral(), progress=False)


def hits(library, query):
    return [(hit.path.parent.name, hit.start, pytest.approx(hit.similarity, abs=1e-6)) for hit in library.search(query)]


def test_a_library_in_a_bucket_is_the_one_in_a_folder(tmp_path, options):
    songs = [path.parent for path in write_songs(tmp_path / "songs", 3, 2.0)]
    there = Library("s3://sounds/library", embedder(), window=1.0, storage_options=options)
    here = Library(tmp_path / "library", embedder(), window=1.0)
    for library in (there, here):
        report = library.add(songs[:2], listen=False)
        assert report.added > 0
        assert not report.failures
        library.add(songs, listen=False)
        library.remove(songs[1])
    again = Library("s3://sounds/library", storage_options=options)
    assert again.index.count() == here.index.count() > 0
    assert again.index.count(ItemFilter(duration=(0.5, 1.5))) == here.index.count(ItemFilter(duration=(0.5, 1.5)))
    query = songs[0] / "mix.wav"
    assert hits(again, query) == hits(here, query)
    assert again.add(songs[0], listen=False).added == 0


def add(options, songs):
    Library("s3://sounds/shared", embedder(), window=1.0, storage_options=options).add(songs, listen=False)


def test_two_writers_of_one_bucket_lose_and_double_nothing(tmp_path, options):
    songs = [path.parent for path in write_songs(tmp_path / "songs", 3, 2.0)]
    Library("s3://sounds/shared", embedder(), window=1.0, storage_options=options)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=add, args=(options, part)) for part in (songs[:2], songs[1:])]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    library = Library("s3://sounds/shared", storage_options=options)
    alone = Library(tmp_path / "alone", embedder(), window=1.0)
    alone.add(songs, listen=False)
    keys = library.index.table(["key"])["key"].to_pylist()
    assert sorted(keys) == sorted(alone.index.table(["key"])["key"].to_pylist())


def test_the_commands_take_the_address_from_the_environment(tmp_path, endpoint, monkeypatch):
    (song, *_) = write_songs(tmp_path / "songs", 1, 2.0)
    for name, value in {
        "AWS_ENDPOINT": endpoint,
        "AWS_ACCESS_KEY_ID": "name",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    runner = CliRunner()
    place = ["--library", "s3://sounds/commands", "--json"]
    done = runner.invoke(app, ["index", str(song.parent), *place, "--no-measure", "--no-progress"])
    assert json.loads(done.stdout)["added"] >= 1, done.output
    found = runner.invoke(app, ["search", str(song), *place, "--include-self"])
    assert json.loads(found.stdout)["hits"], found.output


def test_what_is_not_there_is_said(options):
    with pytest.raises(DataNotFoundError, match="no library at s3://sounds/none"):
        Library("s3://sounds/none", storage_options=options)
    with pytest.raises((StoreError, DataNotFoundError), match="s3://no-such-bucket"):
        Library("s3://no-such-bucket/library", embedder(), storage_options=options)
