"""The main job through its command line: fit, validate, test, predict and crossval on real files."""

import functools
import json
import logging
import pickle
from pathlib import Path

import lancedb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import soundfile
import torch
import yaml

from stemsim.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    DataNotFoundError,
    EmbeddingError,
    SplitError,
    StemMismatchError,
    TripletError,
)
from stemsim.regression import ridge_weights
from stemsim.training.cli import main
from stemsim.triplets.inst_sim_abx_answers import read_answers

ROOT = Path(__file__).resolve().parents[1]
CSV = ["-c", str(ROOT / "configs/logger/csv.yaml")]
JOBS = ("fit", "validate", "test", "predict", "crossval")


def run(job, config, folder, *arguments):
    """Run one job of `train.py` in this process, writing under `folder`."""
    logger = [] if "wandb" in arguments else CSV
    given = [argument for argument in arguments if argument != "wandb"]
    root = ["--trainer.default_root_dir", str(folder)]
    return main([job, "-c", str(ROOT / "configs" / config), *logger, *root, "--data.progress", "false", *given])


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory):
    """Arguments that make the demo small, and share its songs and embeddings among the tests."""
    folder = tmp_path_factory.mktemp("demo")
    songs = "--data.triplets.init_args.songs.init_args"
    return [
        *(f"{songs}.root", str(folder / "songs"), f"{songs}.count", "8", f"{songs}.seconds", "15"),
        *("--data.triplets.init_args.triplets", "400", "--data.triplets.init_args.min_agreement", "0"),
        *("--data.store", str(folder / "store")),
    ]


@pytest.fixture(scope="session")
def fitted(small_demo, tmp_path_factory):
    """A finished fit of the small demo: its folder and its command line object."""
    folder = tmp_path_factory.mktemp("fitted")
    return folder, run("fit", "demo.yaml", folder, *small_demo)


@pytest.fixture
def answers_read_once(monkeypatch):
    """Read the published answers, which no job changes, for the first job of a test alone: it takes a second or two."""
    monkeypatch.setattr("stemsim.triplets.inst_sim_abx.read_answers", functools.cache(read_answers))


@pytest.fixture
def checkpoint(fitted):
    return str(fitted[0] / "checkpoints/last.ckpt")


def write_tones(folder, count=4, seconds=12, rate=8000):
    """Write plain songs, each with a tone and a tremolo of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    time = np.arange(seconds * rate) / rate
    for song in range(count):
        tone = np.sin(2 * np.pi * 200 * 1.4**song * time) * (1.2 + np.sin(2 * np.pi * (song + 1) * time))
        soundfile.write(folder / f"song{song}.wav", 0.3 * tone, rate)
    return folder


def same_song_config(path, songs, **data):
    """Write a configuration for same-song triplets of a folder, with the mix alone; return its path."""
    reader = {
        "class_path": "stemsim.triplets.SameSong",
        "init_args": {
            "songs": {"class_path": "stemsim.audio.SongFolder", "init_args": {"root": str(songs)}},
            "triplets": 60,
            "duration": 3.0,
        },
    }
    separator = {"class_path": "stemsim.separators.MixOnly"}
    folder = path.parent / "run"
    config = {
        "trainer": {"default_root_dir": str(folder), "logger": False},
        "data": {"triplets": reader, "separator": separator, "store": str(folder / "store"), "progress": False} | data,
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return str(path)


def test_fit_reaches_the_closed_form_and_recovers_simulated_weights(fitted):
    folder, _ = fitted
    results = read(folder / "fit.json")
    assert results["closed_form/max_abs_weight_gap"] <= 1e-5
    assert results["simulated"] is True
    assert "simulated" in results["source"]
    assert results["cosine_to_true_weights"] > 0.8
    assert list(results["weights"]) == ["bass", "drums", "guitar", "piano", "vocals", "residuals", "mix"]
    assert (folder / "fit.png").stat().st_size > 5000


def test_cross_validation_says_in_words_what_it_found(small_demo, tmp_path):
    run("crossval", "demo.yaml", tmp_path, *small_demo, "--splits", "20")
    results = read(tmp_path / "crossval.json")
    compared, alike, of_ceiling, told_apart, penalty = results["verdicts"]
    assert alike.startswith("No difference from ridge can be told: ridge, vote shares")
    assert {"logistic", "squared hinge", "ridge, graded"} <= set(results["models"])
    assert "shared tracks" in results["leakage"]["sentences"][0] or "same test" in results["leakage"]["sentences"][0]
    assert "ridge" in compared
    assert "mix cosine" in compared
    assert "95 % interval" in compared
    assert "% of the simulated ceiling of" in of_ceiling
    assert "told apart" in told_apart
    assert penalty.startswith("Penalty within the train parts: median alpha")
    for picture in ("crossval", "crossval_intervals", "crossval_ridge_path"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 10_000


def test_fitted_weights_are_those_of_an_independent_least_squares(fitted):
    _, cli = fitted
    rows = cli.datamodule.rows("train")
    features, target = cli.datamodule.deltas(rows).numpy(), cli.datamodule.table().preference[rows.numpy()]
    expected = np.linalg.solve(features.T @ features, features.T @ target)
    np.testing.assert_allclose(cli.model.fusion.weight.detach().numpy(), expected, atol=1e-6)


def test_l2_is_ridge_with_alpha_n_times_l2(small_demo, tmp_path):
    cli = run("fit", "demo.yaml", tmp_path, *small_demo, "--model.l2", "0.05")
    rows = cli.datamodule.rows("train")
    preference = torch.from_numpy(cli.datamodule.table().preference)[rows]
    expected = ridge_weights(cli.datamodule.deltas(rows), preference, alpha=0.05 * len(rows))
    torch.testing.assert_close(cli.model.fusion.weight.detach(), expected, atol=1e-6, rtol=0)
    assert read(tmp_path / "fit.json")["closed_form/max_abs_weight_gap"] <= 1e-5


def test_nonnegative_weights_reach_the_nonnegative_closed_form(small_demo, tmp_path):
    fusion = {"class_path": "stemsim.fusion.LinearFusion", "init_args": {"nonnegative": True}}
    cli = run("fit", "demo.yaml", tmp_path, *small_demo, "--model.fusion", json.dumps(fusion))
    assert (cli.model.fusion.weight >= 0).all()
    assert read(tmp_path / "fit.json")["closed_form/max_abs_weight_gap"] <= 1e-4


def test_mini_batch_adam_runs_and_says_that_it_has_not_converged(small_demo, tmp_path):
    optimizer = json.dumps({"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}})
    arguments = ("--model.optimizer", optimizer, "--data.batch_size", "32", "--trainer.max_epochs", "2")
    with pytest.warns(UserWarning, match="has not converged"):
        run("fit", "demo.yaml", tmp_path, *small_demo, *arguments)
    assert read(tmp_path / "fit.json")["metrics"]["train/agreement"] > 0.5


def test_test_reports_agreement_beside_ceiling_and_baselines(fitted, checkpoint, small_demo, tmp_path):
    _, fit = fitted
    cli = run("test", "demo.yaml", tmp_path, *small_demo, "--ckpt_path", checkpoint)
    metrics = read(tmp_path / "test.json")["metrics"]
    rows = cli.datamodule.rows("test")
    predicted = (cli.datamodule.deltas(rows) @ fit.model.fusion.weight.detach()).sign().numpy()
    truth = cli.datamodule.table().preference[rows.numpy()]
    assert metrics["test/agreement"] == pytest.approx((predicted == truth).mean())
    mix = cli.datamodule.deltas(rows)[:, -1].sign().numpy()
    assert metrics["test/mix_cosine"] == pytest.approx((mix == truth).mean())
    assert {"test/human_ceiling", "test/uniform_weights", "test/agreement_xab", "test/agreement_xyc"} <= set(metrics)
    assert len(pd.read_csv(tmp_path / "test_worst_triplets.csv")) == 20


def test_testing_untrained_weights_warns_and_is_neutral(small_demo, tmp_path):
    with pytest.warns(UserWarning, match="never trained"):
        run("test", "demo.yaml", tmp_path, *small_demo)
    assert read(tmp_path / "test.json")["metrics"]["test/agreement"] == 0.5


def test_predict_writes_contributions_that_sum_to_the_preference(checkpoint, small_demo, tmp_path):
    cli = run("predict", "demo.yaml", tmp_path, *small_demo, "--ckpt_path", checkpoint)
    table = pd.read_csv(tmp_path / "predictions.csv")
    contributions = table[[f"contribution_{stem}" for stem in cli.datamodule.stems]].sum(axis=1)
    np.testing.assert_allclose(contributions, table["preference"], atol=1e-12)
    assert len(table) == len(cli.datamodule.table())
    assert set(table["part"]) == {"train", "val", "test"}
    majority = np.sign(table["votes_a"] - table["votes_b"])
    np.testing.assert_array_equal(table["credit"], 0.5 * (1 + np.sign(table["preference"]) * majority))


def test_swapping_a_and_b_in_a_batch_flips_the_preference_exactly(fitted):
    _, cli = fitted
    batch = cli.datamodule.batch(torch.arange(len(cli.datamodule.table())))
    with torch.no_grad():
        forward, backward = cli.model(batch.x, batch.a, batch.b), cli.model(batch.x, batch.b, batch.a)
    assert torch.equal(forward, -backward)


def test_crossval_fits_a_nonlinear_fusion_and_starts_from_same_song_triplets(small_demo, tmp_path):
    spline = ("--model.fusion", str(ROOT / "configs/fusions/spline.yaml"))
    root = small_demo[small_demo.index("--data.triplets.init_args.songs.init_args.root") + 1]
    reader = {"songs": {"class_path": "stemsim.audio.SongFolder", "init_args": {"root": root}}}
    same_song = {"class_path": "stemsim.triplets.SameSong", "init_args": {**reader, "triplets": 80}}
    pretraining = ("--data.pretraining", json.dumps(same_song))
    run("crossval", "demo.yaml", tmp_path, *small_demo, *spline, *pretraining, "--splits", "3")
    results = read(tmp_path / "crossval.json")
    for name in ("spline fusion", "ridge, same-song prior", "spline fusion, pre-trained"):
        assert len(results["models"][name]["agreement_by_split"]) == 3
    assert {row["second"] for row in results["comparisons"]} == {"mix cosine", "ridge"}
    assert yaml.safe_load((tmp_path / "crossval.yaml").read_text())["splits"] == 3


def test_perspectives_are_fitted_side_by_side(small_demo, tmp_path):
    asked = {"rhythm": {"drums": 1.0}, "timbre": {"mix": 1.0}}
    run("perspectives", "demo.yaml", tmp_path, *small_demo, "--data.triplets.init_args.perspectives", json.dumps(asked))
    found = read(tmp_path / "perspectives.json")
    assert {"overall", "rhythm", "timbre"} <= set(json.dumps(found).replace('"', " ").split())
    assert (tmp_path / "perspectives.png").stat().st_size > 10_000


def test_crossval_writes_numbers_and_a_picture(small_demo, tmp_path):
    run("crossval", "demo.yaml", tmp_path, *small_demo, "--splits", "10", "--alphas", "[0.1, 1.0]")
    results = read(tmp_path / "crossval.json")
    assert list(results["models"])[:5] == ["simulated ceiling", "mix cosine", "uniform weights", "OLS", "ridge"]
    assert len(results["models"]["OLS"]["agreement_by_split"]) == 10
    assert results["refit"]["alpha"] in {0.1, 1.0}
    assert (tmp_path / "crossval.png").stat().st_size > 5000
    logged = pd.read_csv(next((tmp_path / "csv").rglob("metrics.csv")))
    assert logged["crossval/ols/all"].iloc[0] == pytest.approx(results["models"]["OLS"]["agreement"]["all"]["mean"])


def test_grouped_split_has_no_track_on_both_sides(small_demo, tmp_path):
    settings = ("--data.split", "grouped", "--data.val_fraction", "0", "--data.test_fraction", "0.5")
    data = run("fit", "demo.yaml", tmp_path, *small_demo, *settings).datamodule
    tracks = {part: set(data.table().track_ids[data.rows(part).numpy()].flat) for part in ("train", "test")}
    assert not tracks["train"] & tracks["test"]


def test_everything_is_free_runs_all_jobs_on_unseen_songs(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("STEMSIM_DATA", str(shared_data))
    few = ("--data.triplets.init_args.hop", "20", "--data.triplets.init_args.triplets", "1000")
    small = (*few, "--data.store", str(tmp_path / "store"))
    last = ("--ckpt_path", str(tmp_path / "checkpoints/last.ckpt"))
    for job in JOBS:
        extra = last if job in {"validate", "test", "predict"} else ("--kind", "grouped") if job == "crossval" else ()
        run(job, "everything_is_free.yaml", tmp_path, *small, *extra)
    assert read(tmp_path / "fit.json")["closed_form/max_abs_weight_gap"] <= 1e-5
    assert read(tmp_path / "test.json")["metrics"]["test/agreement"] > 0.6
    assert read(tmp_path / "crossval.json")["models"]["human ceiling"]["agreement"]["all"]["mean"] is None


@pytest.mark.usefixtures("answers_read_once")
def test_inst_sim_abx_runs_all_jobs_on_a_fake_slakh_tree(shared_data, slakh, tmp_path, monkeypatch):
    monkeypatch.setenv("STEMSIM_DATA", str(shared_data))
    monkeypatch.setenv("SLAKH2100", str(slakh))
    small = ("--data.encoder", "fakes.CountingEncoder", "--data.store", str(tmp_path / "store"))
    last = ("--ckpt_path", str(tmp_path / "checkpoints/last.ckpt"))
    for job in JOBS:
        run(job, "inst_sim_abx.yaml", tmp_path, *small, *(last if job in {"validate", "test", "predict"} else ()))
    crossval = read(tmp_path / "crossval.json")
    assert crossval["triplets"] == 127 + 204
    assert crossval["models"]["human ceiling"]["agreement"]["XAB"]["mean"] == pytest.approx(0.91, abs=0.005)
    # At 500 Hz all segments sound much the same: cosines differ by 1e-4, and weights are in the thousands.
    fit = read(tmp_path / "fit.json")
    assert fit["closed_form/max_abs_weight_gap"] <= 1e-5 * max(fit["weights"].values())


def test_inst_sim_abx_without_slakh_says_what_is_missing_and_where_it_is(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("STEMSIM_DATA", str(shared_data))
    monkeypatch.delenv("SLAKH2100", raising=False)
    with pytest.raises(DataNotFoundError, match=r"132 of 132 tracks .*are missing.*zenodo"):
        run("fit", "inst_sim_abx.yaml", tmp_path)


def test_single_stem_triplets_refuse_a_model_of_all_stems(shared_data, slakh, tmp_path, monkeypatch):
    monkeypatch.setenv("STEMSIM_DATA", str(shared_data))
    monkeypatch.setenv("SLAKH2100", str(slakh))
    with pytest.raises(ConfigError, match="heard drums"):
        run("fit", "inst_sim_abx.yaml", tmp_path, "--data.triplets.init_args.instrument", "drums")


def test_wandb_logs_offline_without_an_account(small_demo, tmp_path):
    import wandb

    wandb.teardown()  # set up by another test, it would not read the environment again, which says that it is offline
    run("fit", "demo.yaml", tmp_path, *small_demo, "wandb")
    assert wandb.run is not None
    assert (wandb.run.project, wandb.run.group, wandb.run.job_type) == ("stemsim", "demo", "fit")
    assert set(wandb.run.tags) == {"simulated", "multitrack", "spectral"}
    assert wandb.run.summary["fit"]["simulated"] is True
    wandb.finish()
    runs = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    assert list(runs[0].rglob("*.table.json")), "the weights table"
    assert list(runs[0].rglob("*.png")), "the picture of the weights"


def test_interpolated_settings_follow_an_override_on_the_command_line(small_demo, tmp_path):
    small = (*small_demo[:-2], "--data.encoder", "fakes.CountingEncoder", "--splits", "2")  # without the store
    cli = run("crossval", "demo.yaml", tmp_path / "elsewhere", *small)
    assert Path(cli.datamodule.embedder.store.root) == tmp_path / "elsewhere/embeddings"
    assert Path(cli.trainer.logger.save_dir) == tmp_path / "elsewhere"


def test_another_stem_order_is_an_error_that_names_both(checkpoint, small_demo, tmp_path):
    stems = ["drums", "bass", "guitar", "piano", "vocals", "residuals", "mix"]
    arguments = ("--ckpt_path", checkpoint, "--data.separator.init_args.stems", json.dumps(stems))
    with pytest.raises(StemMismatchError, match=r"\(bass, drums, guitar.*expected \(drums, bass, guitar"):
        run("test", "demo.yaml", tmp_path, *small_demo, *arguments)


def test_bad_checkpoints_are_refused_without_running_code(small_demo, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "exploded").touch, ())

    (tmp_path / "junk.ckpt").write_text("junk")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "bomb.ckpt").write_bytes(pickle.dumps(Bomb()))
    torch.save({"hyper_parameters": {"stems": Bomb()}}, tmp_path / "bomb_zip.ckpt")
    messages = {
        "missing.ckpt": "No checkpoint at",
        "junk.ckpt": "read safely",
        "other.ckpt": "names no stems",
        "bomb.ckpt": "read safely",
        "bomb_zip.ckpt": "read safely",
    }
    for name, message in messages.items():
        with pytest.raises(CheckpointError, match=message):
            run("test", "demo.yaml", tmp_path, *small_demo, "--ckpt_path", str(tmp_path / name))
    with pytest.raises(CheckpointError, match="in this very process"):
        run("test", "demo.yaml", tmp_path, *small_demo, "--ckpt_path", "best")
    assert not (tmp_path / "exploded").exists()


def test_other_encoder_or_separator_than_at_the_fit_warns(checkpoint, small_demo, tmp_path):
    arguments = ("--ckpt_path", checkpoint, "--data.encoder", "fakes.CountingEncoder")
    with pytest.warns(UserWarning, match="fitted with encoder"):
        run("test", "demo.yaml", tmp_path, *small_demo, *arguments)


def test_corrupt_row_is_computed_again_and_changes_nothing(checkpoint, small_demo, tmp_path, caplog):
    arguments = (*small_demo, "--ckpt_path", checkpoint)
    cli = run("test", "demo.yaml", tmp_path, *arguments)
    before = read(tmp_path / "test.json")["metrics"]
    store = cli.datamodule.embedder.store
    table = lancedb.connect(store.root).open_table(store.spec.table)
    row = table.search().limit(1).to_arrow()
    values = row["vectors"].combine_chunks().flatten().to_numpy().copy()
    values[3] += 0.5
    broken = pa.FixedSizeListArray.from_arrays(pa.array(values), len(values))
    changed = row.set_column(row.schema.get_field_index("vectors"), table.schema.field("vectors"), broken)
    table.merge_insert("key").when_matched_update_all().execute(changed)
    with caplog.at_level(logging.WARNING):
        run("test", "demo.yaml", tmp_path, *arguments)
    assert "Dropped 1 corrupt row" in caplog.text
    assert read(tmp_path / "test.json")["metrics"] == before


def test_nan_from_an_encoder_is_an_error_and_stores_nothing(tmp_path):
    songs = write_tones(tmp_path / "songs")
    config = same_song_config(tmp_path / "nan.yaml", songs, encoder={"class_path": "fakes.NanEncoder"})
    with pytest.raises(EmbeddingError, match="NaN"):
        main(["fit", "-c", config])
    tables = lancedb.connect(tmp_path / "run/store")
    assert sum(tables.open_table(name).count_rows() for name in tables.list_tables().tables) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [(lambda whole: whole[: len(whole) // 2], "truncated"), (lambda _: b"hello", "Cannot"), (lambda _: b"", "Cannot")],
)
def test_bad_audio_is_an_error_and_keeps_what_is_stored(tmp_path, content, message):
    songs = write_tones(tmp_path / "songs")
    config = same_song_config(tmp_path / "songs.yaml", songs)
    stored = len(main(["validate", "-c", config]).datamodule.embedder.store)
    (songs / "song9.wav").write_bytes(content((songs / "song0.wav").read_bytes()))
    with pytest.raises(AudioError, match=message) as error:
        main(["validate", "-c", config])
    assert "song9.wav" in str(error.value)
    (songs / "song9.wav").unlink()
    assert len(main(["validate", "-c", config]).datamodule.embedder.store) == stored > 0


def test_missing_folder_empty_split_and_bad_settings_say_what_to_do(tmp_path):
    songs = write_tones(tmp_path / "songs")
    config = same_song_config(tmp_path / "songs.yaml", songs)
    root = "--data.triplets.init_args.songs.init_args.root"
    with pytest.raises(DataNotFoundError, match=r"No folder of songs at .*nowhere"):
        main(["fit", "-c", config, root, str(tmp_path / "nowhere")])
    with pytest.raises(SplitError, match=r"test part is empty.*test_fraction"):
        main(["test", "-c", config, "--data.test_fraction", "0"])
    with pytest.raises(SplitError, match="val part is empty"):
        main(["validate", "-c", config, "--data.val_fraction", "0"])
    with pytest.raises(ConfigError, match="add up to 1"):
        main(["fit", "-c", config, "--data.test_fraction", "1.5"])
    for song in (1, 2, 3):
        (songs / f"song{song}.wav").unlink()
    with pytest.raises(TripletError, match="found 1 songs"):
        main(["fit", "-c", config])


def test_fit_without_validation_part_runs(tmp_path):
    config = same_song_config(tmp_path / "songs.yaml", write_tones(tmp_path / "songs"))
    cli = main(["fit", "-c", config, "--data.val_fraction", "0"])
    assert "val/agreement" not in cli.trainer.callback_metrics


def test_two_fits_into_one_folder_leave_one_checkpoint_and_the_same_weights(tmp_path):
    config = same_song_config(tmp_path / "songs.yaml", write_tones(tmp_path / "songs"))
    first = main(["fit", "-c", config]).model.fusion.weight.detach().clone()
    second = main(["fit", "-c", config]).model.fusion.weight.detach()
    assert torch.equal(first, second)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["last.ckpt"]
