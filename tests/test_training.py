"""The main job through its command line: fit, validate, test, predict and crossval on real files."""

import functools
import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import lancedb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import yaml
from jobs import ROOT, models, read, run, same_song_config, write_tones
from wandb_files import records

import stemsim
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
from stemsim.evaluation import Splits
from stemsim.regression import ridge_weights
from stemsim.training.cli import main
from stemsim.training.module import StemSimilarityModule
from stemsim.triplets import SimulatedListeners
from stemsim.triplets.inst_sim_abx_answers import read_answers

JOBS = ("fit", "validate", "test", "predict", "crossval")
READER = "--data.triplets.init_args"
LISTENED = {"bass": 0.2, "drums": 1.4, "guitar": 0.8, "piano": 0.4, "vocals": 0.2, "residuals": 0.6, "mix": 1.0}


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory):
    """Arguments that make the demo small, and share its songs and embeddings among the tests."""
    folder = tmp_path_factory.mktemp("demo")
    songs = f"{READER}.songs.init_args"
    return [
        *(f"{songs}.root", str(folder / "songs"), f"{songs}.count", "8", f"{songs}.seconds", "15"),
        *(f"{READER}.triplets", "400", f"{READER}.min_agreement", "0", "--data.store", str(folder / "store")),
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


def same_song(small_demo, **arguments):
    """Return same-song triplets of the songs of the demo, for the command line."""
    songs = {"class_path": "stemsim.audio.SongFolder", "init_args": {"root": small_demo[1]}}
    return json.dumps({"class_path": "stemsim.triplets.SameSong", "init_args": {"songs": songs, **arguments}})


class TestFit:
    def test_it_reaches_the_closed_form_and_recovers_simulated_weights(self, fitted):
        folder, cli = fitted
        results = read(folder / "fit.json")
        assert results["max_abs_weight_gap"] <= 1e-5
        assert results["simulated"] is True
        assert "simulated" in results["source"]
        assert results["cosine_to_true_weights"] > 0.8
        assert results["true_weights"] == LISTENED
        assert list(results["weights"]) == list(LISTENED)
        assert (folder / "fit.png").stat().st_size > 5000
        rows = cli.datamodule.rows("train")
        features = cli.datamodule.embedded.deltas[rows].numpy()
        target = cli.datamodule.embedded.triplets.preference[rows.numpy()]
        expected = np.linalg.solve(features.T @ features, features.T @ target)
        np.testing.assert_allclose(list(results["weights"].values()), expected, atol=1e-6)

    def test_l2_is_ridge_with_alpha_n_times_l2(self, small_demo, tmp_path):
        cli = run("fit", "demo.yaml", tmp_path, *small_demo, "--model.l2", "0.05")
        rows, embedded = cli.datamodule.rows("train"), cli.datamodule.embedded
        expected = ridge_weights(embedded.deltas[rows], embedded.target()[rows], alpha=0.05 * len(rows))
        torch.testing.assert_close(cli.model.fusion.weight.detach(), expected, atol=1e-6, rtol=0)
        assert read(tmp_path / "fit.json")["max_abs_weight_gap"] <= 1e-5

    def test_nonnegative_weights_reach_the_nonnegative_closed_form(self, small_demo, tmp_path):
        fusion = str(ROOT / "configs/fusions/linear_nonnegative.yaml")
        cli = run("fit", "demo.yaml", tmp_path, *small_demo, "--model.fusion", fusion)
        assert (cli.model.fusion.weight >= 0).all()
        assert read(tmp_path / "fit.json")["max_abs_weight_gap"] <= 1e-4

    def test_mini_batch_adam_warns_that_it_has_not_converged_and_keeps_the_best_epoch(self, small_demo, tmp_path):
        optimizer = json.dumps({"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}})
        arguments = ("--model.optimizer", optimizer, "--data.batch_size", "32", "--trainer.max_epochs", "2")
        with pytest.warns(UserWarning, match="has not converged"):
            run("fit", "demo.yaml", tmp_path, *small_demo, *arguments, "--checkpoint.monitor", "val/loss")
        assert read(tmp_path / "fit.json")["metrics"]["train/agreement"] > 0.5
        cli = run("test", "demo.yaml", tmp_path, *small_demo, "--ckpt_path", "best")
        assert Path(cli.trainer.ckpt_path) == tmp_path / "checkpoints/best.ckpt"
        run("fit", "demo.yaml", tmp_path, *small_demo)
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"], "of an earlier fit"

    def test_a_nonlinear_fusion_is_written_as_a_model_that_explains_its_similarity(self, small_demo, tmp_path):
        spline = str(ROOT / "configs/fusions/spline.yaml")
        cli = run("fit", "demo.yaml", tmp_path, *small_demo, "--model.fusion", spline, "--model.l2", "0.001")
        results = read(tmp_path / "fit.json")
        assert (results["fusion"], results["closed_form"], results["max_abs_weight_gap"]) == ("SplineFusion", {}, None)
        sim = stemsim.load(tmp_path / "model")
        batch = cli.datamodule.batch(cli.datamodule.rows("test"))
        with torch.no_grad():
            torch.testing.assert_close(sim(batch.x, batch.a), cli.model.fusion(batch.x, batch.a))
        for explanation in sim.explain(batch.x, batch.a):
            assert sum(explanation.contributions.values()) == pytest.approx(explanation.similarity, abs=1e-9)
        assert sim.card.agreement[0].percent == pytest.approx(100 * results["metrics"]["train/agreement"], abs=0.01)
        assert "ridge, L2 0.001" in sim.card.fitted

    def test_without_a_validation_part_it_runs(self, tmp_path):
        config = same_song_config(tmp_path / "songs.yaml", write_tones(tmp_path / "songs"))
        cli = main(["fit", "-c", config, "--data.val_fraction", "0"])
        assert "val/agreement" not in cli.trainer.callback_metrics

    def test_two_fits_into_one_folder_leave_one_checkpoint_and_the_same_weights(self, tmp_path):
        config = same_song_config(tmp_path / "songs.yaml", write_tones(tmp_path / "songs"))
        first = main(["fit", "-c", config]).model.fusion.weight.detach().clone()
        second = main(["fit", "-c", config]).model.fusion.weight.detach()
        assert torch.equal(first, second)
        assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["last.ckpt"]

    def test_grouped_split_has_no_track_on_both_sides(self, small_demo, tmp_path):
        settings = ("--data.split", "grouped", "--data.val_fraction", "0", "--data.test_fraction", "0.5")
        data = run("fit", "demo.yaml", tmp_path, *small_demo, *settings).datamodule
        tracks = {part: set(data.embedded.triplets.track_ids[data.rows(part)].flat) for part in ("train", "test")}
        assert not tracks["train"] & tracks["test"]


class TestTestAndPredict:
    def test_agreement_stands_beside_ceiling_and_baselines(self, fitted, checkpoint, small_demo, tmp_path):
        _, fit = fitted
        data = run("test", "demo.yaml", tmp_path, *small_demo, "--ckpt_path", checkpoint).datamodule
        results = read(tmp_path / "test.json")
        rows = data.rows("test")
        deltas, truth = data.embedded.deltas[rows], data.embedded.triplets.preference[rows.numpy()]
        for name, score in (("agreement", deltas @ fit.model.fusion.weight.detach()), ("mix_cosine", deltas[:, -1])):
            assert results["metrics"][f"test/{name}"] == pytest.approx((score.sign().numpy() == truth).mean())
        assert results["checkpoint"] == checkpoint
        assert len(pd.read_csv(tmp_path / "test_worst_triplets.csv")) == 20

    @pytest.mark.parametrize("job", ["validate", "test", "predict"])
    def test_weights_that_were_never_trained_are_refused(self, job, checkpoint, small_demo, tmp_path):
        with pytest.raises(CheckpointError, match=rf"`train.py {job}` needs weights .* --ckpt_path last"):
            run(job, "demo.yaml", tmp_path, *small_demo)
        content = torch.load(checkpoint, weights_only=True)
        content["state_dict"]["batches_trained"] *= 0
        torch.save(content, tmp_path / "new.ckpt")
        with pytest.raises(CheckpointError, match=r"weights in .*new.ckpt were never trained"):
            run(job, "demo.yaml", tmp_path, *small_demo, "--ckpt_path", str(tmp_path / "new.ckpt"))
        assert not list(tmp_path.glob("*.json"))

    def test_a_fit_of_no_batch_leaves_the_earlier_one(self, small_demo, tmp_path):
        run("fit", "demo.yaml", tmp_path, *small_demo)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.suffix in {".json", ".safetensors"}}
        with pytest.raises(ConfigError, match=r"Nothing was fitted.*max_epochs \(now 0\)"):
            run("fit", "demo.yaml", tmp_path, *small_demo, "--trainer.max_epochs", "0")
        assert {path: path.read_bytes() for path in before} == before

    def test_other_results_of_the_same_job_are_kept_aside(self, small_demo, tmp_path):
        for l2 in ("0", "0.5", "0.5"):
            run("fit", "demo.yaml", tmp_path, *small_demo, "--model.l2", l2)
        (older,) = (tmp_path / "older").iterdir()
        assert (read(older / "fit.json")["l2"], read(tmp_path / "fit.json")["l2"]) == (0.0, 0.5)
        norms = [sum(w**2 for w in stemsim.load(folder / "model").weights.values()) for folder in (older, tmp_path)]
        assert norms[0] > norms[1], "the model of each"
        assert (older / "fit.png").is_file()

    def test_the_logged_metrics_do_not_depend_on_the_data(self, fitted, checkpoint, small_demo, tmp_path):
        folder, _ = fitted
        xyc = ("--data.triplets", same_song(small_demo, triplets=80))  # one vote each, and no XAB triplet
        run("fit", "demo.yaml", tmp_path, *small_demo[-2:], *xyc)
        assert set(read(tmp_path / "fit.json")["metrics"]) == set(read(folder / "fit.json")["metrics"])
        assert read(tmp_path / "fit.json")["metrics"]["train/agreement_xab"] is None
        metrics = []
        for arguments in (small_demo, (*small_demo[-2:], *xyc)):
            run("test", "demo.yaml", tmp_path, *arguments, "--ckpt_path", checkpoint)
            metrics.append(read(tmp_path / "test.json")["metrics"])
        assert set(metrics[0]) == set(metrics[1])
        assert metrics[0]["test/human_ceiling"] > 0.5
        assert metrics[1]["test/human_ceiling"] is None

    def test_predicted_contributions_sum_to_the_preference(self, checkpoint, small_demo, tmp_path):
        data = run("predict", "demo.yaml", tmp_path, *small_demo, "--ckpt_path", checkpoint).datamodule
        table = pd.read_csv(tmp_path / "predictions.csv")
        contributions = table[[f"contribution_{stem}" for stem in data.stems]].sum(axis=1)
        np.testing.assert_allclose(contributions, table["preference"], atol=1e-12)
        assert len(table) == len(data.embedded) == read(tmp_path / "predictions.json")["triplets"]
        assert set(table["part"]) == {"train", "val", "test"}
        majority = np.sign(table["votes_a"] - table["votes_b"])
        np.testing.assert_array_equal(table["credit"], 0.5 * (1 + np.sign(table["preference"]) * majority))

    def test_swapping_a_and_b_in_a_batch_flips_the_preference_exactly(self, fitted):
        _, cli = fitted
        batch = cli.datamodule.batch(torch.arange(len(cli.datamodule.embedded)))
        with torch.no_grad():
            forward, backward = cli.model(batch.x, batch.a, batch.b), cli.model(batch.x, batch.b, batch.a)
        assert torch.equal(forward, -backward)


class TestCheckpoints:
    def test_last_is_that_of_the_runs_folder_in_a_fresh_process(self, fitted, small_demo, tmp_path):
        folder, fit = fitted
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints/last.ckpt").write_bytes((folder / "checkpoints/last.ckpt").read_bytes())
        for job in ("test", "predict", "fit"):
            cli = run(job, "demo.yaml", tmp_path, *small_demo, "--ckpt_path", "last")
            torch.testing.assert_close(cli.model.fusion.weight, fit.model.fusion.weight, atol=1e-6, rtol=1e-6)
            assert cli.model.trained
        alone = StemSimilarityModule(fit.model.stems)  # that it is trained travels with the weights
        assert not alone.trained
        alone.load_state_dict(torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
        assert alone.trained
        for name in ("last", "best"):
            with pytest.raises(CheckpointError, match=rf"expects .*elsewhere.checkpoints.{name}.ckpt, .*Run `python"):
                run("test", "demo.yaml", tmp_path / "elsewhere", *small_demo, "--ckpt_path", name)

    def test_those_of_older_versions_count_as_trained(self, checkpoint, small_demo, tmp_path, recwarn):
        content = torch.load(checkpoint, weights_only=True)
        del content["state_dict"]["batches_trained"]
        torch.save(content, tmp_path / "old.ckpt")
        run("test", "demo.yaml", tmp_path, *small_demo, "--ckpt_path", str(tmp_path / "old.ckpt"))
        assert not any("never trained" in str(warning.message) for warning in recwarn)

    def test_another_stem_order_is_an_error_that_names_both(self, checkpoint, small_demo, tmp_path):
        stems = ["drums", "bass", "guitar", "piano", "vocals", "residuals", "mix"]
        arguments = ("--ckpt_path", checkpoint, "--data.separator.init_args.stems", json.dumps(stems))
        with pytest.raises(StemMismatchError, match=r"\(bass, drums, guitar.*expected \(drums, bass, guitar"):
            run("test", "demo.yaml", tmp_path, *small_demo, *arguments)

    def test_bad_ones_are_refused_without_running_code(self, small_demo, tmp_path):
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
            "other.ckpt": "no stem layout",
            "bomb.ckpt": "read safely",
            "bomb_zip.ckpt": "read safely",
        }
        for name, message in messages.items():
            with pytest.raises(CheckpointError, match=message):
                run("test", "demo.yaml", tmp_path, *small_demo, "--ckpt_path", str(tmp_path / name))
        assert not (tmp_path / "exploded").exists()

    def test_another_encoder_than_at_the_fit_is_warned_of(self, checkpoint, small_demo, tmp_path):
        arguments = ("--ckpt_path", checkpoint, "--data.encoder", "fakes.CountingEncoder")
        with pytest.warns(UserWarning, match="fitted with encoder"):
            run("test", "demo.yaml", tmp_path, *small_demo, *arguments)


class TestCrossval:
    def test_by_default_it_reports_what_one_needs_to_believe_it(self, small_demo, tmp_path, monkeypatch):
        calls = []
        for cls, name in ((Splits, "draw"), (SimulatedListeners, "_drawn")):
            original = getattr(cls, name)
            monkeypatch.setattr(cls, name, lambda *a, _f=original, _n=name, **k: (calls.append(_n), _f(*a, **k))[1])
        run("crossval", "demo.yaml", tmp_path, *small_demo, "--splits", "10", "--alphas", "[0.1, 1.0]")
        assert sorted(calls) == ["_drawn", "draw"], "everything is read and drawn once"
        results, found = read(tmp_path / "crossval.json"), models(tmp_path / "crossval.json")
        assert list(found) == ["simulated ceiling", "mix cosine", "uniform weights", "OLS", "ridge"]
        assert len(found["OLS"]["by_split"]) == 10
        assert results["best_alpha"] in {0.1, 1.0}
        assert not {"leakage", "penalty"} & set(results)
        compared, of_ceiling, collinear = results["verdicts"]
        assert "ridge" in compared
        assert "mix cosine" in compared
        assert "95 % interval" in compared
        assert "% of the simulated ceiling of" in of_ceiling
        assert "variance inflation" in collinear
        for picture in ("crossval", "crossval_intervals"):
            assert (tmp_path / f"{picture}.png").stat().st_size > 5000
        assert yaml.safe_load((tmp_path / "crossval.yaml").read_text())["splits"] == 10
        logged = pd.read_csv(next((tmp_path / "csv").rglob("metrics.csv"))).iloc[0]
        ridge = found["ridge"]
        for column in ("all", "XAB", "XYC"):
            assert logged[f"crossval/ridge/{column.lower()}"] == pytest.approx(ridge["agreement"][column]["mean"])
        assert logged["crossval/ridge/weight_drums"] == pytest.approx(ridge["weights"]["drums"]["mean"])
        assert logged["crossval/ceiling/all"] == pytest.approx(found["simulated ceiling"]["agreement"]["all"]["mean"])
        assert not any(" " in key or "," in key for key in logged.index)

    def test_a_full_report_adds_all_analyses(self, small_demo, tmp_path, capsys):
        asked = json.dumps({"rhythm": {"drums": 1.0}, "melody": {"bass": 1.0}})
        arguments = ("--splits", "8", "--report", "full", f"{READER}.perspectives", asked)
        run("crossval", "demo.yaml", tmp_path, *small_demo, *arguments)
        results = read(tmp_path / "crossval.json")
        assert {"logistic", "squared hinge", "ridge, graded"} <= set(models(tmp_path / "crossval.json"))
        verdicts = " ".join(results["verdicts"])
        assert "No significant difference from ridge: ridge, vote shares" in verdicts
        assert "Leakage, ridge on the same test triplets" in verdicts
        assert "median alpha" in verdicts
        assert results["penalty"]["weights"]
        assert results["by_stem"]["drums"]["r2_drop"]["mean"] > 0.0
        assert all(abs(row["agreement_drop"]["mean"]) < 0.5 for row in results["by_stem"].values())
        beside = read(tmp_path / "perspectives.json")
        assert list(beside["questions"]) == ["overall", "rhythm", "melody"]
        for question, stem in (("rhythm", "drums"), ("melody", "bass")):
            parts = {name: abs(part["part"]) for name, part in beside["questions"][question]["by_stem"].items()}
            assert max(parts, key=parts.get) == stem
            assert beside["questions"][question]["by_stem"][stem]["true_part"] == 1.0
        for picture in ("crossval_ridge_path", "perspectives"):
            assert (tmp_path / f"{picture}.png").stat().st_size > 5000
        assert (tmp_path / "perspectives.csv").read_text().count("\n") == 1 + 3 * len(LISTENED)
        logged = pd.concat(map(pd.read_csv, (tmp_path / "csv").rglob("metrics.csv")))
        assert logged["perspectives/rhythm/part_drums"].notna().any()
        assert "perspectives/timbre/part_drums" in logged.columns, "although nobody was asked about timbre"
        printed = capsys.readouterr().out
        assert all(sentence in printed for sentence in beside["verdicts"])

    def test_a_nonlinear_fusion_and_same_song_triplets_add_models(self, small_demo, tmp_path):
        fusion = ("--model.fusion", str(ROOT / "configs/fusions/spline.yaml"))
        loss = ("--model.loss", str(ROOT / "configs/losses/logistic.yaml"))
        pretraining = ("--data.pretraining", same_song(small_demo, triplets=80))
        run("crossval", "demo.yaml", tmp_path / "se", *small_demo, *fusion, *pretraining, "--splits", "3")
        results = read(tmp_path / "se/crossval.json")
        added = ["spline fusion", "ridge, same-song prior", "spline fusion, pre-trained"]
        assert list(models(tmp_path / "se/crossval.json"))[-3:] == added
        assert {row["second"] for row in results["comparisons"]} == {"mix cosine", "ridge"}
        run("crossval", "demo.yaml", tmp_path / "log", *small_demo, *fusion, *loss, "--splits", "3")
        first, second = (models(tmp_path / f"{loss}/crossval.json")["spline fusion"] for loss in ("se", "log"))
        assert first["by_split"] != second["by_split"] or first["median_alpha"] != second["median_alpha"]

    def test_too_few_tracks_for_splits_by_track_are_a_note(self, tmp_path):
        config = same_song_config(tmp_path / "songs.yaml", write_tones(tmp_path / "songs", count=3))
        main(["crossval", "-c", config, "--splits", "5", "--report", "[leakage, importance]"])
        results = read(tmp_path / "run/crossval.json")
        assert "leakage" not in results
        assert any(sentence.startswith("No splits by track: ") for sentence in results["verdicts"])
        with pytest.raises(SystemExit):
            main(["crossval", "-c", config, "--report", "everything"])


class TestRealTriplets:
    def test_everything_is_free_runs_all_jobs_on_unseen_songs(self, shared_data, tmp_path, monkeypatch):
        monkeypatch.setenv("STEMSIM_DATA", str(shared_data))
        small = (f"{READER}.hop", "20", f"{READER}.triplets", "1000", "--data.store", str(tmp_path / "store"))
        for job in JOBS:
            extra = {"fit": (), "crossval": ("--kind", "grouped")}.get(job, ("--ckpt_path", "last"))
            run(job, "everything_is_free.yaml", tmp_path, *small, *extra)
        assert read(tmp_path / "fit.json")["max_abs_weight_gap"] <= 1e-5
        assert read(tmp_path / "test.json")["metrics"]["test/agreement"] > 0.6
        assert models(tmp_path / "crossval.json")["human ceiling"]["agreement"]["all"]["mean"] is None

    @pytest.mark.usefixtures("answers_read_once")
    def test_inst_sim_abx_runs_all_jobs_on_a_fake_slakh_tree(self, shared_data, slakh, tmp_path, monkeypatch):
        monkeypatch.setenv("STEMSIM_DATA", str(shared_data))
        monkeypatch.setenv("SLAKH2100", str(slakh))
        small = ("--data.encoder", "fakes.CountingEncoder", "--data.store", str(tmp_path / "store"))
        for job in JOBS:
            extra = {"fit": (), "crossval": ("--report", "perspectives", "--splits", "20")}
            run(job, "inst_sim_abx.yaml", tmp_path, *small, *extra.get(job, ("--ckpt_path", "last")))
        assert read(tmp_path / "crossval.json")["triplets"] == 127 + 204
        ceiling = models(tmp_path / "crossval.json")["human ceiling"]
        assert ceiling["agreement"]["XAB"]["mean"] == pytest.approx(0.91, abs=0.01)
        asked = read(tmp_path / "perspectives.json")["questions"]
        assert [fit["triplets"] for fit in asked.values()] == [331, 336, 311, 326], "as `stemsim votes` counts"
        # At 500 Hz all segments sound much the same: cosines differ by 1e-4, and weights are in the thousands.
        fit = read(tmp_path / "fit.json")
        assert fit["max_abs_weight_gap"] <= 1e-5 * max(fit["weights"].values())

    def test_inst_sim_abx_without_slakh_says_what_is_missing_and_leaves_no_folder(
        self, shared_data, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("STEMSIM_DATA", str(shared_data))
        monkeypatch.delenv("SLAKH2100", raising=False)
        for job in ("fit", "crossval"):
            with pytest.raises(DataNotFoundError, match=r"132 of 132 tracks .*are missing.*zenodo"):
                run(job, "inst_sim_abx.yaml", tmp_path / "run", logger=())
        assert not (tmp_path / "run").exists()

    def test_single_stem_triplets_refuse_a_model_of_all_stems(self, shared_data, slakh, tmp_path, monkeypatch):
        monkeypatch.setenv("STEMSIM_DATA", str(shared_data))
        monkeypatch.setenv("SLAKH2100", str(slakh))
        with pytest.raises(ConfigError, match="heard drums"):
            run("fit", "inst_sim_abx.yaml", tmp_path, f"{READER}.instrument", "drums")


def offline_runs(folder):
    """Read the offline runs of W&B in a folder back: of each, its settings, the keys of its metrics, and its files."""
    runs = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        settings, keys = {}, set()
        for record in records(path):
            settings |= {update.key: json.loads(update.value_json) for update in record.config.update}
            keys |= {"/".join(item.nested_key) for item in record.history.item}
        runs.append((settings, keys, {file.suffix for file in path.parent.rglob("*")}))
    return runs


class TestLoggers:
    def test_offline_runs_of_wandb_can_be_filtered_by_their_settings(self, small_demo, tmp_path):
        import wandb

        counting = ("--data.encoder", "fakes.CountingEncoder")
        for job, extra in (("fit", ()), ("test", ("--ckpt_path", "last")), ("crossval", ("--splits", "3"))):
            wandb.teardown()  # in this process, W&B would go on with the run of the job before
            cli = run(job, "demo.yaml", tmp_path, *small_demo, *counting, *extra, logger=())
            assert (wandb.run.project, wandb.run.group, wandb.run.job_type) == ("stemsim", "demo", job)
            assert set(wandb.run.tags) == {"simulated", "multitrack", "spectral"}
            wandb.finish()
        wandb.teardown()  # waits until the file of the last run is whole
        found = offline_runs(tmp_path)
        spec = cli.datamodule.embedder.spec
        assert len([run for run in found if run[0]["encoder"] == spec.encoder]) == 3
        for config, _, _ in found:
            assert config["separator"] == spec.separator
            assert config["stems"] == list(spec.stems)
            assert config["triplets"] == cli.datamodule.embedded.triplets.source
            kept = [config[key] for key in ("split", "seed", "target", "fusion", "loss", "l2")]
            assert kept == ["stratified", 0, "majority", "LinearFusion", "SquaredError", 0.0]
        (fit,) = [run for run in found if "closed_form/max_abs_weight_gap" in run[1]]
        assert {".json", ".png"} <= fit[2], "the table and the picture of the weights"
        (crossval,) = [keys for config, keys, _ in found if config.get("splits") == 3]
        assert {"crossval/ridge/all", "crossval/ridge/xab", "crossval/ridge/weight_drums"} <= crossval
        assert not any("," in key for _, keys, _ in found for key in keys)

    def test_wandb_without_a_key_says_how_to_go_on(self, small_demo, tmp_path, monkeypatch):
        import wandb

        wandb.teardown()
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        with pytest.raises(ConfigError, match=r"W&B: .*`wandb login`, or keep the run on this machine"):
            run("fit", "demo.yaml", tmp_path, *small_demo, "--trainer.logger.init_args.offline", "false", logger=())
        wandb.teardown()


class TestCommandLine:
    @pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
    def test_settings_that_lightning_refuses_are_errors_of_ours(self, small_demo, tmp_path):
        with pytest.raises(ConfigError, match=r"Lightning cannot work with .*gpu.*--trainer.accelerator cpu"):
            run("fit", "demo.yaml", tmp_path, *small_demo, "--trainer.accelerator", "gpu")

    def test_options_of_callbacks_are_in_the_help_and_in_the_saved_settings(self, fitted, capsys):
        with pytest.raises(SystemExit):
            main(["fit", "--help"])
        options = ("checkpoint.monitor", "closed_form.tolerance", "results.worst")
        printed = capsys.readouterr().out
        assert all(f"--{option}" in printed for option in options)
        saved = yaml.safe_load(next(fitted[0].rglob("config.yaml")).read_text())
        assert [saved[key] for key in ("closed_form", "results")] == [{"tolerance": 1e-4}, {"worst": 20}]

    def test_only_the_parser_of_the_job_is_built_and_nothing_is_imported_in_vain(self):
        script = """
import sys
from stemsim.training.cli import StemsimCLI, main
built = []
add = StemsimCLI.add_arguments_to_parser
StemsimCLI.add_arguments_to_parser = lambda self, parser: (built.append(parser), add(self, parser))[1]
try:
    main(["fit", "--help"])
except SystemExit:
    seen = [name for name in ("torchvision", "transformers", "wandb", "matplotlib", "lancedb") if name in sys.modules]
    print(len(built), seen)
"""
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "1 []"

    def test_interpolated_settings_follow_an_override_on_the_command_line(self, small_demo, tmp_path):
        small = (*small_demo[:-2], "--data.encoder", "fakes.CountingEncoder", "--splits", "2")  # without the store
        cli = run("crossval", "demo.yaml", tmp_path / "elsewhere", *small)
        assert Path(cli.datamodule.embedder.store.root) == tmp_path / "elsewhere/embeddings"
        assert Path(cli.trainer.logger.save_dir) == tmp_path / "elsewhere"


class TestBadInput:
    def test_corrupt_row_is_computed_again_and_changes_nothing(self, checkpoint, small_demo, tmp_path, caplog):
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

    def test_nan_from_an_encoder_is_an_error_and_stores_nothing(self, tmp_path):
        songs = write_tones(tmp_path / "songs")
        config = same_song_config(tmp_path / "nan.yaml", songs, encoder={"class_path": "fakes.NanEncoder"})
        with pytest.raises(EmbeddingError, match="NaN"):
            main(["fit", "-c", config])
        tables = lancedb.connect(tmp_path / "run/store")
        assert sum(tables.open_table(name).count_rows() for name in tables.list_tables().tables) == 0

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (lambda whole: whole[: len(whole) // 2], "truncated"),
            (lambda _: b"hello", "Cannot"),
            (lambda _: b"", "is empty"),
        ],
    )
    def test_bad_audio_is_an_error_and_keeps_what_is_stored(self, tmp_path, content, message):
        songs = write_tones(tmp_path / "songs")
        config = same_song_config(tmp_path / "songs.yaml", songs)
        stored = len(main(["fit", "-c", config]).datamodule.embedder.store)
        (songs / "song9.wav").write_bytes(content((songs / "song0.wav").read_bytes()))
        with pytest.raises(AudioError, match=message) as error:
            main(["fit", "-c", config])
        assert "song9.wav" in str(error.value)
        (songs / "song9.wav").unlink()
        assert len(main(["fit", "-c", config]).datamodule.embedder.store) == stored > 0

    def test_missing_folder_empty_split_and_bad_settings_say_what_to_do(self, tmp_path):
        songs = write_tones(tmp_path / "songs")
        config = same_song_config(tmp_path / "songs.yaml", songs, store=str(tmp_path / "store"))
        root = f"{READER}.songs.init_args.root"
        main(["fit", "-c", config, "--trainer.default_root_dir", str(tmp_path / "fitted")])
        fitted = ("--ckpt_path", str(tmp_path / "fitted/checkpoints/last.ckpt"))
        with pytest.raises(DataNotFoundError, match=r"No folder of songs at .*nowhere"):
            main(["fit", "-c", config, root, str(tmp_path / "nowhere")])
        with pytest.raises(SplitError, match=r"test part is empty.*test_fraction"):
            main(["test", "-c", config, *fitted, "--data.test_fraction", "0"])
        with pytest.raises(SplitError, match="val part is empty"):
            main(["validate", "-c", config, *fitted, "--data.val_fraction", "0"])
        with pytest.raises(ConfigError, match="add up to 1"):
            main(["fit", "-c", config, "--data.test_fraction", "1.5"])
        for song in (1, 2, 3):
            (songs / f"song{song}.wav").unlink()
        with pytest.raises(TripletError, match="found 1 songs"):
            main(["fit", "-c", config])
        assert not (tmp_path / "run").exists(), "a failing start leaves no folder"
