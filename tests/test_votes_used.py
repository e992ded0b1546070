"""Targets, weights and losses of training: grades, shares and numbers of votes reach the exact minimum."""

import numpy as np
import pytest
import torch
from fakes import write_songs
from jobs import ROOT, listeners_config, same_song_config

from stemsim.audio import SongFolder
from stemsim.errors import TripletError
from stemsim.fitting import fit_weights
from stemsim.fusion import LinearFusion
from stemsim.losses import Logistic, SquaredHinge
from stemsim.similarity import StemEmbeddings, stem_deltas
from stemsim.training.cli import main
from stemsim.training.data import TripletBatch
from stemsim.training.module import StemSimilarityModule


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    root = tmp_path_factory.mktemp("songs")
    write_songs(root, 5, 12.0)
    return SongFolder(root)


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
