"""Store, library and votes file against a plain dict, whatever is done to them in whatever order."""

import csv
import io
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from app_client import RATE, STEMS, make_library, tone, wav
from fakes import CountingEncoder, EqualBands
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from test_store import CORRUPT, SPEC, data_files, key, replace, row, truncate

from stemsim.audio import Segment
from stemsim.embedding import EmbeddingStore, StemEmbedder
from stemsim.errors import ConfigError, DataNotFoundError, TripletError
from stemsim.retrieval import ItemFilter, Routing
from stemsim.triplets.votes_file_answers import read_votes
from stemsim.triplets.votes_table import append_vote

numbers = st.integers(0, 9)
_times = count(1)


class InFolder(RuleBasedStateMachine):
    """A machine with a folder of its own."""

    def __init__(self):
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)

    def teardown(self):
        self.temporary.cleanup()


class StoreMachine(InFolder):
    """The embedding store, opened twice, against numbers of rows."""

    def __init__(self):
        super().__init__()
        self.rows = {}  # by key, the number of its embeddings
        self.corrupt = set()  # keys that are stored, and to be dropped when they are read
        self.stores = [EmbeddingStore(self.folder, SPEC) for _ in range(2)]

    @rule(which=st.booleans(), new=st.dictionaries(numbers, st.integers(0, 99), min_size=1, max_size=5))
    def put(self, which, new):
        embeddings = type(row(0))(*map(torch.cat, zip(*map(row, new.values()), strict=True)))
        segments = [Segment(Path(f"{number}.wav"), 0.0, 5.0) for number in new]
        self.stores[which].put(list(map(key, new)), segments, embeddings)
        self.rows |= new
        self.corrupt -= set(new)

    @rule(which=st.booleans(), asked=st.sets(numbers) | st.just(set(range(10))))
    def get(self, which, asked):
        found = self.stores[which].get(list(map(key, asked)))
        seen = {int(one, 16): place for place, one in enumerate(found.keys)}
        assert seen.keys() == self.rows.keys() & asked
        for number, place in seen.items():
            for stored, wanted in zip(found.embeddings, row(self.rows[number]), strict=True):
                assert torch.equal(stored[place], wanted[0])
        self.corrupt -= asked

    @rule(which=st.booleans())
    def reopen(self, which):
        self.stores[which] = EmbeddingStore(self.folder, SPEC)

    @rule(which=st.booleans())
    def compact(self, which):
        self.stores[which].compact()

    @rule(number=numbers, how=st.sampled_from(list(CORRUPT)))
    def corrupt_a_row(self, number, how):
        if number in self.rows:
            replace(self.stores[0], number, **CORRUPT[how])
            del self.rows[number]
            self.corrupt.add(number)

    @rule(which=st.booleans(), number=numbers)
    def damage_a_file(self, which, number):
        """Of the rows in a damaged file some may be left; the others stay."""
        files = sorted(data_files(self.folder), key=lambda path: path.stat().st_mtime_ns)
        if not files:
            return
        truncate(files[number % len(files)])
        for either in range(2):  # one that is open may go on with what it has read before
            self.reopen(either)
        found = self.stores[which].get(list(map(key, range(10))))
        self.rows = {number: self.rows[number] for number in sorted(int(one, 16) for one in found.keys)}
        self.corrupt.clear()
        self.get(which, set(range(10)))

    @invariant()
    def no_row_is_there_twice(self):
        assert [len(store) for store in self.stores] == [len(self.rows) + len(self.corrupt)] * 2


NAMES = ("a.wav", "b.wav", "it's/c.wav", "it's/d 100%.wav")
WAVS = (
    wav(tone(1, seconds=0.5)),
    wav(tone(6, seconds=0.5)),
    wav(tone(2, 5)),
    wav(np.concatenate([tone(low, 7 - low) for low in range(3)])),
    wav(0.0 * tone(1)),
    b"RIFF",
)
SOUNDS = [soundfile.read(io.BytesIO(content), dtype="float32")[0] for content in WAVS[:-1]]  # of 16 bits
DAMAGED, SILENT = len(WAVS) - 1, len(WAVS) - 2
contents = st.integers(0, DAMAGED)
SEARCHES = st.tuples(
    st.integers(0, SILENT - 1),  # what is searched with
    st.dictionaries(
        st.tuples(st.sampled_from(STEMS), st.sampled_from(STEMS)),
        st.floats(0.01, 2) | st.floats(-2, -0.01),
        min_size=1,
    ),
    st.booleans(),  # only in a folder
    st.sampled_from([(), (), ("bass",), ("drums",)]),  # that must sound
    st.sampled_from([None, None, 0.7]),  # longest item
    st.sampled_from([1, 3, 50]),  # hits
)


@cache
def windows(content):
    """Return of each window of a sound its start, its stem embeddings, and which stems sound."""
    if content in {SILENT, DAMAGED}:
        return ()
    sound, embedder = (
        torch.from_numpy(SOUNDS[content]),
        StemEmbedder(EqualBands(STEMS, RATE), CountingEncoder(), progress=False),
    )
    found = []
    for start in range(0, len(sound), RATE):
        made = embedder.embed_waveforms([(sound[None, start : start + RATE], RATE)])
        found.append((start / RATE, made.vectors[0].double(), made.present[0]))
    return tuple(found)


class LibraryMachine(InFolder):
    """A library against the contents of its files."""

    def __init__(self):
        super().__init__()
        self.disk, self.held = {}, {}  # contents by name
        self.library = make_library(self.folder / "library", window=1.0)
        (self.folder / "sounds/it's").mkdir(parents=True)

    def path(self, name):
        return self.folder / "sounds" / name

    @initialize(chosen=st.lists(st.integers(0, SILENT), min_size=2, max_size=len(NAMES)), searches=st.lists(SEARCHES))
    def begin(self, chosen, searches):
        for name, content in zip(NAMES[::-1], chosen, strict=False):
            self.write(name, content)
        self.add_the_folder()
        self.search(searches)

    @rule(name=st.sampled_from(NAMES), content=contents)
    def write(self, name, content):
        self.path(name).write_bytes(WAVS[content])
        os.utime(self.path(name), ns=(next(_times),) * 2)
        self.disk[name] = content

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def delete(self, names):
        for name in names & self.disk.keys():
            self.path(name).unlink()
            del self.disk[name]

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def add(self, names):
        if names - self.disk.keys():
            with pytest.raises(DataNotFoundError):
                self.library.add([self.path(name) for name in sorted(names)], listen=False)
        else:
            self.added(self.library.add([self.path(name) for name in sorted(names)], listen=False), names)

    @rule()
    def add_the_folder(self):
        self.added(self.library.add(self.folder / "sounds", listen=False), set(self.disk))

    def added(self, report, names):
        sound = {name: self.disk[name] for name in names if self.disk[name] != DAMAGED}
        assert {failure.path for failure in report.failures} == {self.path(name) for name in names - sound.keys()}
        new = sound.keys() - self.held.keys()
        changed = {name for name in sound.keys() - new if sound[name] != self.held[name]}
        assert (report.added, report.changed) == (len(new), len(changed))
        assert report.unchanged == len(sound) - len(new) - len(changed)
        self.held |= sound

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name):
        if name in self.held:
            assert self.library.remove(self.path(name)) == [self.path(name)]
            del self.held[name]
        else:
            with pytest.raises(DataNotFoundError):
                self.library.remove(self.path(name))

    @rule(names=st.sets(st.sampled_from(NAMES)), even_all=st.booleans())
    def prune(self, names, even_all):
        self.delete(names)
        missing = self.held.keys() - self.disk.keys()
        if missing and missing == self.held.keys() and not even_all:
            with pytest.raises(DataNotFoundError):
                self.library.prune()
        else:
            assert self.library.prune(even_all=even_all) == sorted(map(self.path, missing))
            self.held = {name: content for name, content in self.held.items() if name not in missing}

    @rule()
    def reopen(self):
        self.library = make_library(self.folder / "library")

    @rule()
    def build(self):
        self.library.index.optimise()
        self.library.index.build()

    @rule(lose=st.booleans())
    def check_and_repair(self, lose):
        """Let go of an item behind the library's back; all that is wrong is found and mended."""
        on_disk = {name: self.disk.get(name) for name in self.held}
        faults = {
            "missing": {name for name, content in on_disk.items() if content is None},
            "refused": {name for name, content in on_disk.items() if content == DAMAGED},
            "changed": {name for name, content in on_disk.items() if content not in (self.held[name], DAMAGED, None)},
        }
        items = self.library.index.table(["key", "path"]).to_pylist()
        if lose and items:
            self.library.index.delete([items[0]["key"]])
            faults["lacking"] = {str(Path(items[0]["path"]).relative_to(self.folder / "sounds"))}
        expected = {
            kind: tuple(sorted(str(self.path(name)) for name in names)) for kind, names in faults.items() if names
        }
        assert {fault.kind: fault.names for fault in self.library.check()} == expected
        if self.held and len(faults["missing"]) == len(self.held):
            with pytest.raises(DataNotFoundError):
                self.library.repair()
            self.prune(set(), even_all=True)
            return
        found, left = self.library.repair()
        assert {fault.kind: fault.names for fault in found} == expected
        self.held = {
            name: content if content != DAMAGED else self.held[name]
            for name, content in on_disk.items()
            if content is not None
        }
        lost = faults.get("lacking", set()) & faults["refused"]  # cannot be embedded again
        for name in lost:
            del self.held[name]
        assert {fault.kind for fault in left} <= {"refused", "begun"}
        if lost:
            self.library.remove([self.path(name) for name in lost])

    @rule(searches=st.lists(SEARCHES, min_size=2, max_size=6))
    def search(self, searches):
        """Compare with a plain scan over the model."""
        for content, weights, folder, stem, longest, k in searches:
            routing = Routing.pairs_of(STEMS, weights)
            prefix = f"{self.folder}/sounds/it's/" if folder else None
            where = ItemFilter(stems=stem, duration=(None, longest), path_prefix=prefix)
            asked = (torch.from_numpy(SOUNDS[content][None, :RATE]), RATE)
            _, query, present = windows(content)[0]
            if not any(present[STEMS.index(stem)] for stem, _ in weights):
                with pytest.raises(ConfigError, match="is silent in"):
                    self.library.search(asked, routing=routing, where=where, k=k)
                continue
            sounding = [
                STEMS.index(one) for one in (*stem, *(other for (_, other), weight in weights.items() if weight < 0))
            ]
            groups = {}  # items of one content at one time, of which one hit is shown
            for name, held in self.held.items():
                if (folder and not name.startswith("it's/")) or (longest and len(SOUNDS[held]) > longest * RATE):
                    continue
                for start, vectors, sounds in windows(held):
                    if sounds[sounding].all():
                        groups.setdefault((held, start), (vectors, []))[1].append(self.path(name))
            pairs = [(STEMS.index(one), STEMS.index(other), weight) for (one, other), weight in weights.items()]
            scanned = [
                (
                    sum(weight * float(query[one] @ vectors[other].half().double()) for one, other, weight in pairs),
                    sorted(paths),
                )
                for vectors, paths in groups.values()
            ]
            scanned.sort(key=lambda found: -found[0])
            hits = self.library.search(asked, routing=routing, where=where, k=k, fold=2.0)
            assert [hit.similarity for hit in hits] == pytest.approx([one for one, _ in scanned[:k]], abs=1e-5)
            if k >= len(scanned):
                assert sorted(sorted([hit.path, *hit.also]) for hit in hits) == sorted(paths for _, paths in scanned)

    @invariant()
    def its_items_are_those_of_the_files(self):
        rows = self.library.index.table(["path", "start"]).to_pylist()
        expected = [(str(self.path(name)), start) for name, held in self.held.items() for start, *_ in windows(held)]
        assert sorted((row["path"], row["start"]) for row in rows) == sorted(expected)
        assert self.library.stats().files == len(self.held)


FILES = ("x.wav", 'ü, "1".wav', "a b;.wav", "=1+1\t.wav")
VOTES = st.builds(
    lambda files, listener, answer, number: {
        **dict(zip(("reference", "sample_a", "sample_b"), files, strict=False)),
        "subject_id": listener,
        "answer_total": answer,
        "vote_id": number,
    },
    files=st.permutations(FILES),
    listener=st.sampled_from(["ann", "bob, jr."]),
    answer=st.sampled_from(["A+", "A-", "B+", "B-"]),
    number=st.integers(0, 30).map(str),
)


class VotesMachine(InFolder):
    """A votes file against the list of confirmed votes."""

    def __init__(self):
        super().__init__()
        self.votes = []
        self.path = self.folder / "votes.csv"

    @rule(vote=VOTES)
    def vote(self, vote):
        append_vote(self.path, vote)
        self.votes.append(vote)

    @rule(votes=st.lists(VOTES, min_size=2, max_size=4))
    def vote_at_once(self, votes):
        with ThreadPoolExecutor(2) as writers:
            list(writers.map(append_vote, [self.path] * len(votes), votes))
        with self.path.open(newline="", encoding="utf-8") as file:
            written = [{name: row[name] for name in votes[0]} for row in csv.DictReader(file)]
        assert written[: len(self.votes)] == self.votes
        assert sorted(written[len(self.votes) :], key=repr) == sorted(votes, key=repr)
        self.votes = written

    @precondition(lambda self: self.votes)
    @rule(share=st.floats(0, 1, exclude_max=True))
    def tear_the_last_vote(self, share):
        """A disk loses the end of the last line."""
        content = self.path.read_bytes()
        begin = content.rstrip(b"\n").rindex(b"\n") + 1
        if content.endswith(b"\n"):
            self.votes.pop()  # else it was torn before, and never confirmed
        self.path.write_bytes(content[: begin + int(share * (len(content) - begin))])

    @precondition(lambda self: self.votes)
    @rule(vote=VOTES, share=st.floats(0, 1, exclude_max=True))
    def die_while_voting(self, vote, share):
        """A writer is killed amid a line, which nobody confirmed."""
        before = self.path.read_bytes()
        append_vote(self.path, vote)
        after = self.path.read_bytes()
        whole = before[: before.rindex(b"\n") + 1]
        self.path.write_bytes(after[: len(whole) + int(share * (len(after) - len(whole)))])

    @invariant()
    def what_is_read_is_what_was_confirmed(self):
        if not self.votes:
            if self.path.exists():
                with pytest.raises(TripletError, match="holds no votes"):
                    read_votes(self.path)
            return
        ids, counted, repeats = set(), {}, 0
        for vote in self.votes:
            if vote["vote_id"] not in ids:
                ids.add(vote["vote_id"])
                x, *candidates = (vote[name] for name in ("reference", "sample_a", "sample_b"))
                question = (vote["subject_id"], x, frozenset(candidates))
                repeats += question in counted
                counted.setdefault(question, (candidates["AB".index(vote["answer_total"][0])], vote["answer_total"][1]))
        answers = read_votes(self.path)
        seen = {}
        for place, triplet in enumerate(answers.triplet):
            x, a, b = (excerpt.path.name for excerpt in answers.asked[["x", "a", "b"]].to_numpy()[triplet])
            chosen = a if answers.choices[place, 0] > 0 else b
            sure = "+" if answers.sure[place, 0] else "-"
            seen[answers.subject[place], x, frozenset((a, b))] = (chosen, sure)
        assert (seen, len(answers.repeats)) == (counted, repeats)


MACHINES = {StoreMachine: (20, 20), LibraryMachine: (8, 14), VotesMachine: (10, 20)}  # examples and steps


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("times", [1, pytest.param(15, marks=pytest.mark.attack)])
def test_whatever_is_done_it_is_what_a_dict_would_be(machine, times):
    examples, steps = MACHINES[machine]
    checks = settings(max_examples=times * examples, stateful_step_count=steps, deadline=None)
    run_state_machine_as_test(machine, settings=checks)
