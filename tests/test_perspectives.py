"""Perspectives side by side: known weights come back, errors against slow sums, and the report on real answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_inst_sim_abx import write_fake_inst_sim_abx
from fake_slakh import write_fake_slakh
from scipy.stats import t as student_t
from tables import make_triplets

from stemsim.errors import ConfigError, SplitError, TripletError
from stemsim.evaluation.perspectives import compare_perspectives
from stemsim.evaluation.stem_parts import (
    Numbering,
    feature_scale,
    holm,
    part_difference_error,
    part_error,
    stem_parts,
)
from stemsim.triplets import InstSimABX

STEMS = ("bass", "drums", "mix")
WEIGHTS = {"overall": (1.0, 1.5, 0.4), "timbre": (0.0, 0.0, 1.0), "rhythm": (0.3, 2.0, 0.0)}


def listening_test(seed=0, triplets=400, weights=WEIGHTS, listeners=7):
    """Return tables by question of listeners who go by known weights, on triplets that overlap."""
    rng = np.random.default_rng(seed)
    table, deltas = make_triplets(rng, triplets, tracks=40), rng.normal(size=(triplets, len(STEMS))) * [1.0, 0.5, 2.0]
    asked = {}
    for question, truth in weights.items():
        closer = 1 / (1 + np.exp(-2 * deltas @ np.array(truth)))
        for_a = rng.binomial(listeners, closer)
        named = dict(zip(STEMS, map(float, truth), strict=True))
        one = replace(table, votes=np.stack([for_a, listeners - for_a], axis=1), true_weights=named)
        rows = np.flatnonzero(rng.random(triplets) < 0.8)
        asked[question] = (one.select(rows), torch.from_numpy(deltas[rows]))
    return asked


class TestParts:
    def test_known_parts_come_back_within_their_intervals(self):
        covered = []
        for seed in range(60):
            asked = listening_test(seed)
            scale, numbers = feature_scale(asked.values()), Numbering()
            for table, deltas in asked.values():
                parts = stem_parts(table, deltas, scale, numbers)
                error, tracks = part_error(parts)
                truth = np.array(list(table.true_weights.values())) * scale
                miss = np.abs(parts.part - truth / np.linalg.norm(truth))
                assert np.square(parts.part).sum() == pytest.approx(1.0)
                covered.append(miss <= student_t.ppf(0.975, tracks - 1) * error)
        assert 0.92 < np.mean(covered) < 0.98, "540 intervals of 95 %"

    def test_the_stems_that_drive_a_perspective_are_named(self):
        found = compare_perspectives(listening_test(), STEMS, count=5)
        told = {(one.question, one.stem): one.value > 0 for one in found.differences if one.adjusted_p_value < 0.05}
        assert told[("rhythm", "drums")]
        assert told[("timbre", "mix")]
        assert not told[("rhythm", "mix")]
        assert not told[("timbre", "drums")]
        assert any(said.startswith("mix counts less for rhythm than over all: -") for said in found.sentences)
        rhythm = next(said for said in found.sentences if said.startswith("rhythm: "))
        assert "mix" not in rhythm, "a stem that is not told from 0 is not named"

    def test_perspectives_of_the_same_weights_are_seldom_told_apart(self):
        false = 0
        for seed in range(12):
            same = listening_test(seed, weights=dict.fromkeys(WEIGHTS, (0.3, 0.5, 1.0)))
            found = compare_perspectives(same, STEMS, count=2)
            false += any(one.adjusted_p_value < 0.05 for one in found.differences)
        assert false <= 2, "0.6 are to be expected"

    def test_errors_are_those_of_a_slow_sum_over_pairs_of_triplets_that_share_a_track(self):
        asked = listening_test(triplets=60)
        scale, numbers = feature_scale(asked.values()), Numbering()
        first, second = (stem_parts(*asked[name], scale, numbers) for name in ("overall", "rhythm"))

        def slow(rows):
            """Sum over pairs of (question, tracks, score)."""
            total = np.zeros((len(rows), len(STEMS)))
            for index, (_, tracks, score) in enumerate(rows):
                for _, others, other in rows:
                    if set(tracks) & set(others):
                        total[index] += score * other
            count = len({track for _, tracks, _ in rows for track in tracks})
            by_question = {}
            for question, _, score in rows:
                by_question[question] = by_question.get(question, 0) + score
            least = sum(np.square(score) for score in by_question.values())
            return np.sqrt(np.maximum(total.sum(axis=0), least) * count / (count - 1))

        def rows_of(parts, sign=1):
            return [
                (tuple(question), tuple(tracks), sign * score)
                for question, tracks, score in zip(
                    parts.question.tolist(), parts.tracks.tolist(), parts.influence, strict=True
                )
            ]

        np.testing.assert_allclose(part_error(first)[0], slow(rows_of(first)))
        both = rows_of(first) + rows_of(second, -1)
        np.testing.assert_allclose(part_difference_error(first, second)[0], slow(both))
        assert (part_difference_error(first, first)[0] == 0.0).all(), "errors in common cancel"

    def test_influence_is_what_leaving_a_triplet_out_does(self):
        asked = listening_test(triplets=200)
        table, deltas = asked["overall"]
        scale = feature_scale(asked.values())
        parts = stem_parts(table, deltas, scale, Numbering())
        for row in range(5):
            others = np.delete(np.arange(len(table)), row)
            without = stem_parts(table.select(others), deltas[others], scale, Numbering())
            np.testing.assert_allclose(parts.part - without.part, parts.influence[row], atol=2e-4)

    def test_units_of_a_stem_do_not_matter(self):
        asked = listening_test()
        grown = {
            question: (table, deltas * torch.tensor([1.0, 1e-3, 5.0])) for question, (table, deltas) in asked.items()
        }
        for one, other in zip(
            compare_perspectives(asked, STEMS, count=2).fits,
            compare_perspectives(grown, STEMS, count=2).fits,
            strict=True,
        ):
            np.testing.assert_allclose(one.part, other.part, atol=1e-9)
            np.testing.assert_allclose(one.standard_error, other.standard_error, atol=1e-9)

    def test_silent_and_identical_stems_have_open_intervals_and_no_differences(self):
        asked = {}
        for question, (table, deltas) in listening_test().items():
            asked[question] = (table, torch.cat([deltas, deltas[:, :1], torch.zeros(len(table), 1)], dim=1))
        stems = ("bass", "drums", "mix", "guitar", "vocals")
        asked = {q: (replace(t, true_weights=None), d) for q, (t, d) in asked.items()}
        found = compare_perspectives(asked, stems, count=2)
        for fit in found.fits:
            assert np.isinf(fit.standard_error).tolist() == [True, False, False, True, True]
            assert fit.part[4] == 0.0
            assert fit.part[0] == pytest.approx(fit.part[3]), "the shortest solution"
        assert {one.stem for one in found.differences} == {"drums", "mix"}
        json.dumps(found.to_dict(), allow_nan=False)
        assert perspectives_table(found).row_count == 5 + 7

    def test_holm_is_the_step_down_of_bonferroni(self):
        np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])
        np.testing.assert_allclose(holm(np.array([0.6, 0.6])), [1.0, 1.0])
        assert len(holm(np.array([]))) == 0

    def test_questions_with_too_few_triplets_are_left_out_with_the_reason(self):
        asked = listening_test()
        table, deltas = asked["rhythm"]
        asked["rhythm"] = (table.select([0, 1]), deltas[:2])
        found = compare_perspectives(asked, STEMS, count=2)
        assert [fit.question for fit in found.fits] == ["overall", "timbre"]
        assert found.sentences[-1].startswith("rhythm is left out: Errors of 3 weights need more than 3 triplets")
        with pytest.raises(TripletError, match="need more than 3 triplets"):
            compare_perspectives({"rhythm": asked["rhythm"]}, STEMS)
        with pytest.raises(SplitError):
            compare_perspectives({"timbre": asked["timbre"]}, STEMS, kind="grouped", train_fraction=0.999)
        with pytest.raises(TripletError, match="no triplets"):
            compare_perspectives({"timbre": (table.select([]), deltas[:0])}, STEMS)
        with pytest.raises(TripletError, match="All stem weights are 0"):
            compare_perspectives({"timbre": (table, 0 * deltas)}, STEMS)
        with pytest.raises(ConfigError, match="level"):
            compare_perspectives(asked, STEMS, level=95)


class TestReader:
    def test_each_question_meets_the_cut_offs_by_its_own_votes(self, tmp_path):
        root = write_fake_inst_sim_abx(tmp_path / "abx")
        write_fake_slakh(tmp_path / "slakh", range(1876, 1883), seconds=15.0, seed=0, sample_rate=500)
        found = InstSimABX(root, tmp_path / "slakh", min_agreement=0.65).read_perspectives(None)
        assert {question: table.votes.tolist() for question, table in found.items()} == {
            "overall": [[4, 1], [2, 1]],
            "timbre": [[3, 0]],
            "rhythm": [[0, 4], [2, 0]],
            "melody": [[1, 2]],
        }
        assert found["timbre"].sure_votes.tolist() == [[1, 0]]
        assert all(segment.path.is_file() for table in found.values() for segment in table.segments)
        one = InstSimABX(root, tmp_path / "slakh", min_agreement=0.65, question="rhythm").read(None)
        assert one.votes.tolist() == found["rhythm"].votes.tolist()
        assert one.source == "Inst-Sim-ABX, rhythm"
        with pytest.raises(TripletError, match="min_votes` 9 on melody"):
            InstSimABX(root, tmp_path / "slakh", question="melody", min_votes=9).read(None)
        with pytest.raises(ConfigError, match="overall, timbre, rhythm, melody; got 'harmony'"):
            InstSimABX(root, question="harmony")

    def test_votes_on_a_perspective_in_the_table_are_those_of_its_answers(self, answers):
        table = answers.count()
        for question in ("timbre", "rhythm", "melody"):
            np.testing.assert_array_equal(table.about(question).votes, answers.about(question).count().votes)
