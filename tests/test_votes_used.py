"""Grades, shares and numbers of votes: from the answers to the loss, and nothing new where they are not asked for."""

import csv
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_inst_sim_abx import write_fake_inst_sim_abx
from fakes import write_songs
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import ROOT, listeners_config, same_song_config
from tables import make_triplets
from test_triplets import RandomEmbedder

from stemsim.audio import SongFolder
from stemsim.errors import ConfigError, TripletError
from stemsim.fitting import fit_weights
from stemsim.fusion import LinearFusion
from stemsim.losses import Logistic, SquaredHinge
from stemsim.similarity import StemEmbeddings, stem_deltas
from stemsim.training.cli import main
from stemsim.training.data import TripletBatch
from stemsim.training.module import StemSimilarityModule
from stemsim.triplets import SameSong, SimulatedListeners
from stemsim.triplets.inst_sim_abx_answers import read_answers

TABLE = make_triplets(np.random.default_rng(0), 60)
GRADED = replace(TABLE, sure_votes=np.random.default_rng(1).binomial(TABLE.votes, 0.4))
VOTES = st.tuples(*[st.integers(0, 6)] * 4).map(lambda n: ((n[0] + n[1], n[2] + n[3]), (n[0], n[2])))


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    root = tmp_path_factory.mktemp("songs")
    write_songs(root, 5, 12.0)
    return SongFolder(root)


class TestGrades:
    def test_the_miniature_has_the_grades_that_were_written(self, tmp_path):
        table = read_answers(write_fake_inst_sim_abx(tmp_path / "abx")).count().filter(instrument="mix")
        assert table.votes.tolist() == [[4, 1], [2, 1]]
        assert table.sure_votes.tolist() == [[2, 1], [1, 1]]  # A+ A- (B, A: B-) (B, A: B+) B+; Y+ Y- C+
        np.testing.assert_allclose(table.target("graded"), [(2 + 2 / 2 - 1) / 5, (1 + 1 / 2 - 1) / 3])

    def test_grades_follow_the_question(self, tmp_path):
        answers = read_answers(write_fake_inst_sim_abx(tmp_path / "abx")).about("timbre")
        table = answers.count().filter(instrument="mix")
        assert table.votes.tolist() == [[3, 2], [3, 0]]
        assert table.sure_votes.tolist() == [[2, 2], [1, 0]]

    def test_a_slow_count_of_the_published_answers_agrees(self, answers, inst_sim_abx):
        counted = defaultdict(lambda: [0, 0])
        with (inst_sim_abx / "csvs/inst_sim_abx_answers.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                names = [row[column].split("/") for column in ("reference", "sample_a", "sample_b")]
                if len(names[0]) == 2 or row["answer_total"][1] == "-":
                    continue
                chosen = names[1] if row["answer_total"][0] == "A" else names[2]
                test = "XAB" if {names[1][3][0], names[2][3][0]} == {"A", "B"} else "XYC"
                counted[row["ex_name"], *names[0][:3], test][chosen[3][0] not in "AY"] += 1
        table = answers.count()
        assert (table.sure_votes <= table.votes).all()
        expected = Counter(map(tuple, counted.values()))
        assert Counter(row for row in map(tuple, table.sure_votes.tolist()) if any(row)) == expected
        assert table.sure_votes.sum() == 4962 + 4160

    def test_no_grade_is_lost_or_made_up_on_the_way(self, answers):
        table = answers.count()
        assert answers.pooled().count().sure_votes.sum() == table.sure_votes.sum()
        screened = answers.screened()
        assert screened.count().sure_votes.sum() == screened.sure[:, 0].sum() < table.sure_votes.sum()
        kept = table.filter(instrument="mix", min_agreement=0.8)
        rows = np.flatnonzero((table.instrument == "mix") & table.retained(min_agreement=0.8))
        np.testing.assert_array_equal(kept.sure_votes, table.sure_votes[rows])
        assert table.about("rhythm").sure_votes is None, "grades are those of the question over all"

    @pytest.mark.parametrize(
        ("sure", "message"),
        [
            (TABLE.votes + 1, "between 0 and `votes`"),
            (-np.ones_like(TABLE.votes), "between 0 and `votes`"),
            (TABLE.votes[:, :1], "`sure_votes` must have shape"),
        ],
    )
    def test_grades_that_are_not_of_the_votes_are_refused(self, sure, message):
        with pytest.raises(TripletError, match=message):
            replace(TABLE, sure_votes=sure)


class TestTargets:
    @given(st.lists(VOTES, min_size=1, max_size=20))
    @settings(max_examples=60, deadline=None)
    def test_targets_are_those_of_a_slow_mean_and_a_swap_flips_their_signs_exactly(self, rows):
        votes, sure = (np.array(column) for column in zip(*rows, strict=True))
        table = replace(TABLE.select(np.arange(len(rows))), votes=votes, sure_votes=sure)
        swapped = replace(table, votes=votes[:, ::-1], sure_votes=sure[:, ::-1])
        for kind in ("majority", "share", "graded"):
            found = table.target(kind)
            assert np.array_equal(found, -swapped.target(kind))
            assert found.dtype == np.float64
            assert (np.abs(found) <= 1.0).all()
            for target, (for_a, for_b), (sure_a, sure_b) in zip(found, votes.tolist(), sure.tolist(), strict=True):
                grades = {
                    "majority": [np.sign(for_a - for_b)],
                    "share": [1] * for_a + [-1] * for_b,
                    "graded": [1] * sure_a + [0.5] * (for_a - sure_a) + [-1] * sure_b + [-0.5] * (for_b - sure_b),
                }[kind]
                assert target == pytest.approx(np.mean(grades) if grades else 0.0)
        if votes.any():
            weights = table.vote_weights()
            assert weights.mean() == pytest.approx(1.0)
            np.testing.assert_allclose(weights * votes.sum() / len(votes), votes.sum(axis=1))

    def test_what_is_not_there_is_an_error(self):
        with pytest.raises(TripletError, match=r"listener's confidence; made up has none.*`share`"):
            TABLE.target("graded")
        with pytest.raises(ConfigError, match="majority, share, graded; got 'soft'"):
            TABLE.target("soft")
        with pytest.raises(ConfigError, match="overall, timbre, rhythm, melody; got 'harmony'"):
            TABLE.about("harmony")
        with pytest.raises(TripletError, match="Nobody voted"):
            replace(TABLE, votes=np.zeros_like(TABLE.votes)).vote_weights()
        assert len(TABLE.select([]).vote_weights()) == 0


SIMULATED = {"weights": {"drums": 1.0, "mix": 0.5}, "triplets": 50, "duration": 2.0, "seed": 3}


class TestSimulatedListeners:
    def test_votes_over_all_are_those_of_before_grades_and_perspectives(self, songs):
        pinned = {0.5: [9, 0, 0, 7, 7, 0, 0, 3], 0.0: [9, 0, 0, 9, 9, 0, 0, 0]}
        for noise, for_a in pinned.items():
            plain = SimulatedListeners(songs, **SIMULATED, noise=noise)
            asked = SimulatedListeners(songs, **SIMULATED, noise=noise, perspectives={"rhythm": {"drums": 1.0}})
            for reader in (plain, asked):
                assert reader.embed(RandomEmbedder()).triplets.votes[:8, 0].tolist() == for_a

    def test_who_does_not_doubt_is_sure(self, songs):
        def sure(**options):
            table = SimulatedListeners(songs, **SIMULATED, **options).embed(RandomEmbedder()).triplets
            return table.sure_votes.sum() / table.votes.sum()

        assert sure(noise=0.0) == 1.0
        assert sure(sure_from=0.0) == 1.0
        assert sure(sure_from=50.0) < 0.01
        assert 0.2 < sure() < 0.5

    def test_grades_say_how_clear_the_triplet_is(self, songs):
        table = SimulatedListeners(songs, **SIMULATED).embed(RandomEmbedder()).triplets
        clear = table.majority_share == 1.0
        share = table.sure_votes.sum(axis=1) / table.votes.sum(axis=1)
        assert share[clear].mean() > 2 * share[~clear].mean()

    def test_perspectives_are_cut_off_by_their_own_votes_and_know_their_truth(self, songs):
        reader = SimulatedListeners(
            songs, **SIMULATED, min_agreement=0.8, perspectives={"rhythm": {"drums": 1.0}, "timbre": {"bass": 1.0}}
        )
        found = {name: one.triplets for name, one in reader.embed_questions(RandomEmbedder()).items()}
        assert list(found) == ["overall", "timbre", "rhythm"]
        assert found["rhythm"].true_weights == {"bass": 0.0, "drums": 1.0, "mix": 0.0}
        assert all((table.majority_share >= 0.8 - 1e-9).all() for table in found.values())
        overall = reader.embed(RandomEmbedder()).triplets
        np.testing.assert_array_equal(found["overall"].votes, overall.votes)

    @pytest.mark.parametrize(
        "options", [{"perspectives": {"harmony": {"mix": 1.0}}}, {"perspectives": {"rhythm": {}}}, {"sure_from": -1.0}]
    )
    def test_questions_that_make_no_sense_are_refused(self, songs, options):
        with pytest.raises(TripletError, match="can be asked about timbre, rhythm, melody"):
            SimulatedListeners(songs, **SIMULATED, **options)

    def test_readers_without_perspectives_have_the_question_over_all(self, songs):
        found = SameSong(songs, triplets=20, duration=2.0).read_questions()
        assert list(found) == ["overall"]


def random_batch(seed=0, size=40, stems=3):
    rng = np.random.default_rng(seed)

    def embeddings():
        vectors = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(size, stems, 5))), dim=2)
        return StemEmbeddings(vectors, torch.zeros(size, stems), torch.ones(size, stems, dtype=torch.bool))

    target = torch.from_numpy(rng.choice([-1.0, 1.0], size))
    votes = torch.zeros(size, 2, dtype=torch.int64)
    rest = (votes, torch.zeros(size, dtype=torch.int64), torch.arange(size))
    return TripletBatch(embeddings(), embeddings(), embeddings(), target, torch.ones_like(target), *rest)


class TestObjective:
    def test_the_default_is_the_papers_loss_to_the_last_bit_of_value_and_gradient(self):
        batch = random_batch()
        module = StemSimilarityModule(["bass", "drums", "mix"], l2=0.01)
        with torch.no_grad():
            module.fusion.weight.copy_(torch.tensor([0.3, -0.7, 1.1]))
        value = module.training_step(batch, 0)
        (gradient,) = torch.autograd.grad(value, module.fusion.weight)
        weight = module.fusion.weight.detach().clone().requires_grad_()
        same = LinearFusion(["bass", "drums", "mix"])
        del same.weight
        same.weight = weight
        before = (same.preference(batch.x, batch.a, batch.b) - batch.target).square().mean()
        before = before + 0.01 * weight.square().sum()
        assert torch.equal(value, before)
        assert torch.equal(gradient, torch.autograd.grad(before, weight)[0])

    def test_any_loss_takes_target_and_weight(self):
        batch = random_batch()
        weight = torch.linspace(0.5, 1.5, 40, dtype=torch.float64)
        batch = batch._replace(target=0.4 * batch.target, weight=weight)
        module = StemSimilarityModule(["bass", "drums", "mix"], l2=0.1, loss=SquaredHinge())
        with torch.no_grad():
            module.fusion.weight.copy_(torch.tensor([0.3, -0.7, 1.1]))
            found = module.training_step(batch, 0)
        predicted = stem_deltas(batch.x, batch.a, batch.b) @ module.fusion.weight.detach()
        values = SquaredHinge().terms(predicted, batch.target).value
        expected = np.average(values, weights=weight) + 0.1 * (0.3**2 + 0.7**2 + 1.1**2)
        assert found.item() == pytest.approx(expected)


@pytest.fixture
def config(songs, tmp_path):
    """A configuration of simulated listeners of unequal number of answers, small enough for a second or two."""
    return listeners_config(tmp_path / "run.yaml", songs.root)


class TestCommandLine:
    @pytest.mark.parametrize(("name", "loss"), [("logistic", Logistic()), ("squared_hinge", SquaredHinge())])
    def test_other_losses_reach_the_exact_minimum(self, config, name, loss, caplog):
        settings_ = ["--model.loss", str(ROOT / f"configs/losses/{name}.yaml"), "--data.target", "share"]
        cli = main(["fit", "-c", config, *settings_, "--model.l2", "0.001"])
        assert type(cli.model.loss) is type(loss)
        rows = cli.datamodule.rows("train")
        embedded = cli.datamodule.embedded
        everything, alpha = torch.ones(1, len(rows)), torch.tensor([0.001 * len(rows)])
        fits = fit_weights(embedded.deltas[rows], embedded.target("share")[rows], everything, alpha, loss=loss)
        exact = fits.weights[0, 0]
        torch.testing.assert_close(cli.model.fusion.weight.detach(), exact, atol=1e-6, rtol=1e-6)
        assert f"No closed form for the loss {type(loss).__name__}" in caplog.text
        assert cli.trainer.callback_metrics["val/agreement"] > 0.5

    def test_shares_and_weights_keep_the_closed_form(self, config):
        loss = str(ROOT / "configs/losses/squared_error.yaml")
        given = ["--data.target", "graded", "--data.vote_weighted_loss", "true", "--model.l2", "0.01"]
        cli = main(["fit", "-c", config, "--model.loss", loss, *given])
        data = cli.datamodule
        rows = data.rows("train").numpy()
        features, table = data.embedded.deltas.numpy()[rows], data.embedded.triplets
        weight, target = table.vote_weights()[rows], table.target("graded")[rows]
        gram = features.T @ (weight[:, None] * features) + 0.01 * weight.sum() * np.eye(3)
        expected = np.linalg.solve(gram, features.T @ (weight * target))
        np.testing.assert_allclose(cli.model.fusion.weight.detach().numpy(), expected, atol=1e-6)
        assert cli.trainer.callback_metrics["closed_form/max_abs_weight_gap"] <= 1e-6

    def test_grades_that_nobody_gave_are_an_error_before_anything_is_embedded(self, songs, tmp_path):
        encoder = {"class_path": "fakes.NanEncoder"}  # would be noticed
        config = same_song_config(tmp_path / "songs.yaml", songs.root, encoder=encoder)
        with pytest.raises(TripletError, match="A graded target needs answers"):
            main(["fit", "-c", config, "--data.target", "graded"])
