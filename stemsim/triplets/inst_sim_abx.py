"""Reader of the listening test Inst-Sim-ABX, with audio cut from Slakh2100."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from stemsim.audio import is_audio_path
from stemsim.errors import ConfigError, DataNotFoundError, TripletError
from stemsim.triplets.answers import Answers
from stemsim.triplets.embedded import TripletReader
from stemsim.triplets.inst_sim_abx_answers import INSTRUMENTS, read_answers
from stemsim.triplets.table import QUESTIONS, TEST_TYPES, TestType, Triplets, question_index

_LISTED: Final = 10
_SLAKH: Final = (
    "Slakh2100 is Zenodo record 4599666 (https://doi.org/10.5281/zenodo.4599666, about 100 GB); the flac redux serves, "
    "as it numbers the tracks as the original release did, Track00001 to Track02100"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class InstSimABX(TripletReader):
    """The listening test Inst-Sim-ABX (Hashizume and Toda, arXiv:2502.02138), with audio cut from Slakh2100.

    The answers are published without audio. The segments, of about 5 s, come from 133 tracks of Slakh2100 (original
    numbering, Track01876 to Track02096); you need a copy of it.

    Args:
        root: Folder of the repository zume06/Inst-Sim-ABX-Dataset, with `csvs` and `sample_configs`.
        slakh: A folder of Slakh2100 (https://doi.org/10.5281/zenodo.4599666) with `Track01876/mix.flac` and so on, in
            it or in its subfolders (`train`, `validation`, `test`, `omitted`).
        instrument: Instrument that was heard: `mix`, or a single stem, `bass`, `drums`, `guitar`, `piano` or
            `residuals`; null: all. The audio is that of the mix in any case.
        test_type: `XAB`, three different tracks, or `XYC`, Y being from X's track; null: both.
        min_agreement: Minimum share of votes of the majority, in [0, 1] (paper: 0.75 and 0.8).
        min_votes: Minimum number of votes.
        screen: Leave out all answers of listeners who failed a check, in which one candidate is the reference itself.
        pool: Add up the votes of the two runs of the test on the same question. The paper does not; then the same
            question may be both trained on and tested. Mixes were presented in one run only.
        question: Question that the answers are about: `overall`, `timbre`, `rhythm` or `melody`. Votes, grades and
            thresholds are those of its answers.
    """

    root: str | Path
    slakh: str | Path | None = None
    instrument: str | None = "mix"
    test_type: TestType | None = None
    min_agreement: float = 0.8
    min_votes: int = 1
    screen: bool = False
    pool: bool = False
    question: str = "overall"

    def __post_init__(self) -> None:
        """Verify instrument, test type and question."""
        if self.instrument not in (None, *INSTRUMENTS) or self.test_type not in (None, *TEST_TYPES):
            raise ConfigError(
                f"Inst-Sim-ABX has the instruments {', '.join(INSTRUMENTS)} and the test types "
                f"{', '.join(TEST_TYPES)}; got {self.instrument!r} and {self.test_type!r}. Choose one of these, or "
                "null for all."
            )
        question_index(self.question)

    def read(self) -> Triplets:
        """Count the votes, keep the triplets that meet all conditions, and find their tracks."""
        answers = self._answers()
        if not len(kept := self._kept(answers, self.question)):
            raise TripletError(
                f"None of the {len(answers.about(self.question).asked)} triplets has `instrument` {self.instrument}, "
                f"`test_type` {self.test_type}, `min_agreement` {self.min_agreement} and `min_votes` {self.min_votes}"
                f"{'' if self.question == 'overall' else f' on {self.question}'}. Relax these conditions."
            )
        return _with_audio(kept, self._find_mixes(kept.tracks))

    def read_questions(self) -> dict[str, Triplets]:
        """Return the triplets that meet the conditions on each question, whatever `question` is."""
        answers = self._answers()
        tables = {question: self._kept(answers, question) for question in QUESTIONS}
        mixes = self._find_mixes(track for table in tables.values() for track in table.tracks)
        return {question: _with_audio(table, mixes) for question, table in tables.items() if len(table)}

    def _answers(self) -> Answers:
        """Read the answers, screened and pooled if requested."""
        answers = read_answers(self.root)
        for check in answers.wrong_dummies:
            fate = "all answers of this listener are left out" if self.screen else "`screen` leaves them out"
            _log.info("%s answered %s where %s is the reference; %s", check.subject, check.answer, check.expected, fate)
        answers = answers.screened() if self.screen else answers
        return answers.pooled() if self.pool else answers

    def _kept(self, answers: Answers, question: str) -> Triplets:
        """Return the triplets that meet all conditions by the votes on one question."""
        return answers.kept(
            question,
            instrument=self.instrument,
            test_type=self.test_type,
            min_agreement=self.min_agreement,
            min_votes=self.min_votes,
        )

    def _find_mixes(self, tracks: Iterable[str]) -> dict[str, Path]:
        """Return the file of the mix of each track, in the Slakh2100 folder or in its subfolders."""
        slakh, needed = None if self.slakh is None else Path(self.slakh), sorted(set(tracks))
        folders: list[Path] = []
        if slakh is not None and slakh.is_dir():  # a subfolder may hold tracks if it is not one itself
            subfolders = [path for path in sorted(slakh.iterdir()) if not path.name.startswith(("Track", "."))]
            folders = [slakh, *filter(Path.is_dir, subfolders)]
        mixes = {
            track: mix
            for track in needed
            for folder in reversed(folders)  # the folder itself has the last word
            for mix in sorted((folder / track).glob("mix.*"), reverse=True)
            if is_audio_path(mix)
        }
        if missing := [track for track in needed if track not in mixes]:
            where = (
                "`slakh` is not set" if slakh is None else f"in {slakh}" if folders else f"there is no folder {slakh}"
            )
            more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
            raise DataNotFoundError(
                f"Inst-Sim-ABX comes without audio, and {len(missing)} of {len(needed)} tracks of Slakh2100 are "
                f"missing ({where}): {', '.join(missing[:_LISTED])}{more}. Set `slakh` to a folder with "
                f"{missing[0]}/mix.flac, or <split>/{missing[0]}/mix.flac, and so on, and metadata.yaml and stems "
                f"beside it. {_SLAKH}. `stemsim votes` counts the votes without audio."
            )
        return mixes


def _with_audio(table: Triplets, mixes: Mapping[str, Path]) -> Triplets:
    """Return the table with its segments in the files of the mixes, by track."""
    segments = zip(table.segments, table.tracks, strict=True)
    return replace(table, segments=tuple(replace(segment, path=mixes[track]) for segment, track in segments))
