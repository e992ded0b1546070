"""What a process computes from the same input: `python determinism_job.py FOLDER SONGS BATCH_SIZE WORKERS SEED`.

`torch.get_num_threads()` is that of the environment variable OMP_NUM_THREADS.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from items import DIM, STEMS, make_items
from jobs import listeners_config

from stemsim.audio import segment_windows
from stemsim.embedding import EmbeddingSpec, StemEmbedder
from stemsim.encoders import Spectral
from stemsim.retrieval.indexes.lance import LanceIndex
from stemsim.retrieval.query import Query
from stemsim.retrieval.routing import Routing
from stemsim.separators import Bands
from stemsim.training.cli import main


def embed(songs, batch_size, workers, order):
    """Return the vectors `(segment, stem, dim)` of windows of songs, embedded in another order."""
    segments = [window for path in sorted(songs.rglob("mix.wav")) for window in segment_windows(path, duration=1.5)]
    rows = np.random.default_rng(order).permutation(len(segments)) if order else np.arange(len(segments))
    embedder = StemEmbedder(Bands(), Spectral(), batch_size=batch_size, workers=workers, progress=False)
    embedded = embedder.embed([segments[row] for row in rows])
    return embedded.take(torch.from_numpy(np.argsort(rows)))


def search(folder, order):
    """Return keys and similarities that an approximate index finds, made of the same items in another order."""
    items = make_items(3000)
    rows = np.random.default_rng(order).permutation(len(items)) if order else np.arange(len(items))
    index = LanceIndex(folder / "lance", EmbeddingSpec("s", "e", "p", STEMS, DIM))
    index.upsert(items.take(rows))
    assert index.build()
    vectors = torch.nn.functional.normalize(torch.from_numpy(np.random.default_rng(1).normal(size=(3, DIM))), dim=1)
    query = Query(STEMS, vectors.float())
    routing = Routing.parse("drums=1,mix=0.5", STEMS)
    found = index.search(routing.fold(query.vectors), 200)
    return found.items.key.tolist(), [float(one) for one in found.similarity]


def run(folder, songs, batch_size, workers, order):
    """Write embeddings, and return what else is compared."""
    folder.mkdir()
    embedded = embed(songs, batch_size, workers, order)
    np.savez(folder / "embedded.npz", *(tensor.numpy() for tensor in embedded))
    config = listeners_config(folder / "config.yaml", songs)
    fit = main(["fit", "-c", config, "--data.embedding_batch", str(batch_size)])
    keys, similarities = search(folder, order)
    weights = fit.model.fusion.weight.detach()
    return {"weights": weights.tolist(), "keys": keys, "similarities": similarities, "threads": torch.get_num_threads()}


if __name__ == "__main__":
    target, source, *numbers = sys.argv[1:]
    result = run(Path(target), Path(source), *map(int, numbers))
    (Path(target) / "result.json").write_text(json.dumps(result), encoding="utf-8")
