"""Items made up for tests, and those of a library."""

import numpy as np
import torch

from stemsim.retrieval.items import Items

TAGS = np.fromiter([("kick",), ("bass", "loop"), ("it's", "kick", "one-shot"), ("song",), ()], object, 5)
STEMS = ("bass", "drums", "mix")
DIM = 16


def make_items(n, *, seed=0, first=0, stems=STEMS, dim=DIM):
    """Return `n` items with metadata of every kind, some of it missing, and names that are hard to quote."""
    rng = np.random.default_rng([seed, first])
    present = rng.random((n, len(stems))) > 0.2
    vectors = torch.from_numpy(rng.normal(size=(n, len(stems), dim)) * present[:, :, None]).float()
    numbers = range(first, first + n)
    return Items(
        stems=tuple(stems),
        key=np.array([f"k{number}" for number in numbers]),
        content=np.array([f"c{number // 3}" for number in numbers]),
        path=np.array([f"/a/it's {number % 7}%/é\"\\{number}.wav" for number in numbers]),
        start=rng.uniform(0, 60, n),
        duration=rng.uniform(0.2, 5, n),
        file_duration=rng.uniform(5, 90, n),
        tags=rng.choice(TAGS, n),
        bpm=np.where(rng.random(n) < 0.3, np.nan, rng.uniform(90, 140, n)),
        musical_key=rng.choice(["A minor", "C# major", ""], n),
        loudness=rng.uniform(-40, 0, n),
        present=present,
        vectors=torch.nn.functional.normalize(vectors, dim=2),
    )


def stored(library):
    """Return path, start and vectors of all items of a library."""
    return sorted(
        (path, start, vector)
        for items in library.index.scan()
        for path, start, vector in zip(items.path, items.start, items.vectors.flatten(1).tolist(), strict=True)
    )
