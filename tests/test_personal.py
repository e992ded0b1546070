"""Personal weights: from a votes file to a model that every command uses."""

import json

import numpy as np
import pytest
from jobs import write_tones
from scipy.special import expit
from typer.testing import CliRunner

from stemsim.cli import app
from stemsim.embedding import StemEmbedder
from stemsim.encoders import Spectral
from stemsim.errors import ConfigError, TripletError
from stemsim.fitting.personal import FEWEST_VOTES, ListenerVotes, personalize
from stemsim.model import StemSimilarity, read_model
from stemsim.separators import Bands
from stemsim.triplets import VotesFile

PRIOR = {"bass": 0.2, "drums": 0.4, "mix": 1.6}
TRUTH = np.array([1.4, 0.9, 0.1])


def simulated(count, seed=0, truth=TRUTH, *, listener="ann", at_random=True):
    rng = np.random.default_rng(seed)
    deltas = rng.normal(size=(count, 3)) * 0.5
    choices = np.where(rng.random(count) < 0.03 + 0.94 * expit(4.0 * deltas @ truth), 1, -1)
    tracks = np.stack([rng.permutation(40)[:3] for _ in range(count)]) if count else np.zeros((0, 3), int)
    drawn = np.arange(count) % 5 == 0 if not at_random else np.ones(count, bool)
    return ListenerVotes(deltas, choices, np.arange(count), tracks, np.full(count, listener), drawn)


def together(*parts):
    names = ("deltas", "choices", "triplet", "tracks", "listener", "at_random")
    return ListenerVotes(*(np.concatenate([getattr(one, name) for one in parts]) for name in names))


class TestPersonalize:
    def test_many_votes_move_the_weights_to_the_truth_and_agreement_shows_it(self):
        found = personalize(simulated(300), PRIOR)
        weights = np.array(list(found.weights.values()))
        assert np.dot(weights, TRUTH) / np.linalg.norm(weights) / np.linalg.norm(TRUTH) > 0.98
        assert np.linalg.norm(weights) == pytest.approx(np.linalg.norm(list(PRIOR.values())))
        assert found.scale * np.linalg.norm(weights) == pytest.approx(4.0 * np.linalg.norm(TRUTH), rel=0.3)
        agreement = found.agreement
        assert agreement.before.value < agreement.after.value
        assert agreement.gain.lower > 0.0
        assert agreement.gain.value == pytest.approx(agreement.after.value - agreement.before.value)
        assert "better" in found.sentence
        for one in found.calibration:
            assert one.chosen == pytest.approx(one.predicted, abs=4 * np.sqrt(0.25 / one.votes))
        assert sum(one.votes for one in found.calibration) == 300

    def test_a_few_votes_are_too_few_to_tell(self):
        found = personalize(simulated(FEWEST_VOTES - 1), PRIOR)
        assert (found.agreement, found.calibration) == (None, ())
        assert "too few to tell" in found.sentence

    def test_answers_at_random_are_predicted_no_better_than_by_chance(self):
        votes = simulated(200, truth=np.zeros(3))
        gain = personalize(votes, PRIOR).agreement.gain
        assert gain.lower < 0.0 < gain.upper

    def test_agreement_is_that_on_questions_drawn_at_random(self):
        found = personalize(simulated(200, at_random=False), PRIOR)
        assert (found.agreement.votes, found.agreement.at_random) == (40, True)
        assert "40 votes held out, those on random questions" in found.sentence
        agreement = personalize(simulated(50, at_random=False), PRIOR).agreement
        assert (agreement.votes, agreement.at_random) == (50, False)

    def test_the_prior_is_narrow_where_other_listeners_are_alike(self):
        prior = np.array(list(PRIOR.values()))
        others = together(*(simulated(60, seed, prior, listener=f"l{seed}") for seed in range(10)))
        alike = personalize(simulated(30, 50), PRIOR, others=others)
        usual = personalize(simulated(30, 50), PRIOR, others=simulated(60))
        assert (alike.learned_from, usual.learned_from) == (10, 0)
        assert alike.prior_spread < usual.prior_spread
        assert alike.spread["bass"] < usual.spread["bass"]

    def test_one_triplet_is_refused(self):
        votes = simulated(25)
        same = ListenerVotes(
            votes.deltas, votes.choices, 0 * votes.triplet, votes.tracks, votes.listener, votes.at_random
        )
        with pytest.raises(TripletError, match="two triplets"):
            personalize(same, PRIOR)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Songs, a prior model, and a votes file of a listener with other weights and of three more."""
    root = tmp_path_factory.mktemp("personal")
    write_tones(root / "songs", count=6)
    similarity = StemSimilarity(StemEmbedder(Bands(), Spectral(), progress=False), dict.fromkeys(Bands().stems, 1.0))
    similarity.save(root / "prior")
    rng = np.random.default_rng(0)
    lines = ["x,a,b,start_x,start_a,start_b,duration,answer,listener"]
    for number in range(60):
        songs = rng.permutation(6)[:3]
        starts = rng.integers(5, size=3) * 2
        answer = "AB"[int(rng.random() < 0.4)]
        names = ",".join(f"songs/song{song}.wav" for song in songs)
        lines.append(f"{names},{','.join(map(str, starts))},2,{answer},{['ann', 'bob', 'cy', 'dee'][number % 4]}")
    (root / "votes.csv").write_text("\n".join(lines) + "\n")
    return root


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class TestCommand:
    def test_from_votes_to_a_model_that_compares_and_searches(self, workspace):
        mine = workspace / "mine"
        arguments = ("personalize", workspace / "votes.csv", "--prior", workspace / "prior", "--output", mine)
        result = invoke(*arguments)
        assert result.exit_code == 0, result.output
        assert "Weights from 60 votes" in result.stdout
        assert "Agreement on 60 votes held out: " in result.stdout
        card, fusion = read_model(mine)
        assert card.name == "mine"
        assert "60 votes" in card.fitted
        songs = sorted((workspace / "songs").iterdir())
        compared = json.loads(invoke("compare", songs[0], songs[1], "--model", mine, "--json").stdout)
        assert list(compared["weights"].values()) == pytest.approx(fusion.weight.tolist())
        assert invoke("index", workspace / "songs", "--library", workspace / "lib", "--model", mine).exit_code == 0
        found = invoke("search", songs[0], "--library", workspace / "lib", "--model", mine)
        assert found.exit_code == 0, found.output
        listed = invoke("search", songs[0], "--library", workspace / "lib", "--model", mine, "--json", "--include-self")
        document = json.loads(listed.stdout)
        for stem, weight in zip(fusion.stems, fusion.weight.tolist(), strict=True):
            assert f"{stem}={weight:g}" in document["weights"]
        other = invoke("search", songs[0], "--library", workspace / "lib", "--model", "muq-6stem")
        assert (other.exit_code, "Stem layouts differ" in other.stderr) == (2, True)

    def test_one_of_several_listeners(self, workspace):
        arguments = ("personalize", workspace / "votes.csv", "--prior", workspace / "prior", "--json")
        found = json.loads(invoke(*arguments, "--output", workspace / "ann", "--listener", "ann").stdout)
        assert (found["votes"], found["learned_from"], found["agreement"]) == (15, 3, None)
        wrong = invoke(*arguments, "--output", workspace / "eve", "--listener", "eve")
        assert (wrong.exit_code, "no listener 'eve', but ann, bob, cy, dee" in wrong.stderr) == (2, True)
        assert not (workspace / "eve").exists()

    def test_votes_need_whole_recordings_and_a_linear_model(self, workspace):
        model = StemSimilarity(StemEmbedder(Bands(), Spectral(), progress=False), dict.fromkeys(Bands().stems, 0.0))
        model.save(workspace / "zero")
        wrong = invoke(
            "personalize", workspace / "votes.csv", "--prior", workspace / "zero", "--output", workspace / "z"
        )
        assert (wrong.exit_code, "weighted sum" in wrong.stderr) == (2, True)
        with pytest.raises(TripletError, match="no votes on whole recordings"):
            ListenerVotes.of(VotesFile(workspace / "votes.csv").answers(), model, question="rhythm")
        with pytest.raises(ConfigError, match="Listeners were asked about"):
            ListenerVotes.of(VotesFile(workspace / "votes.csv").answers(), model, question="mood")
