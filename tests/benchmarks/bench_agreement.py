"""Agreement of weights with the votes, over all triplets at once and cell by cell. Run by hand.

    python tests/benchmarks/bench_agreement.py [--triplets 27000] [--dim 512] [--json FILE]

Cell by cell is the way of fastabx and of other ABX scorers: each cell (here: each triplet, since each has its own X, A
and B) takes its embeddings out of the data set, normalises them, multiplies them, and counts a tie as a half. The votes
and embeddings are made up, 600 segments with 7 stems. Both must agree on the preferences and on the agreement.
"""

import argparse
import json
from pathlib import Path

import torch
from bench_crossval import made_up, timed
from torch.nn.functional import normalize

from stemsim.evaluation import agreement
from stemsim.similarity import StemEmbeddings
from stemsim.stems import STEMS
from stemsim.triplets import EmbeddedTriplets


def cell_by_cell(embedded, weights):
    """Return the agreement and the preferences `(triplet,)`, one cell after the other."""
    vectors = embedded.embeddings.vectors
    majority, credit, preferences = embedded.triplets.preference.tolist(), 0.0, []
    for (x, a, b), choice in zip(embedded.triplets.members.tolist(), majority, strict=True):
        one, pair = normalize(vectors[[x]], dim=2).double(), normalize(vectors[[a, b]], dim=2).double()
        cosines = torch.einsum("xsd,csd->cs", one, pair)
        preference = float((cosines[0] - cosines[1]) @ weights)
        credit += 0.5 if preference == 0.0 else float((preference > 0.0) == (choice > 0))
        preferences.append(preference)
    return credit / len(majority), torch.tensor(preferences, dtype=torch.float64)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triplets", type=int, default=27_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    generator = torch.Generator().manual_seed(given.seed)
    table = made_up(given.triplets, given.seed).triplets
    vectors = normalize(torch.randn(len(table.segments), len(STEMS), given.dim, generator=generator), dim=2)
    levels = torch.zeros(vectors.shape[:2])
    embeddings = StemEmbeddings(vectors, levels, levels == 0.0)
    weights = torch.rand(len(STEMS), generator=generator, dtype=torch.float64)

    def at_once():
        embedded = EmbeddedTriplets(table, embeddings, STEMS)  # anew: what it has computed is kept
        preference = embedded.deltas @ weights
        return agreement(preference.numpy(), table.preference), preference

    at_once()
    (ours, preference), our_time = timed(at_once, repeats=3)
    (theirs, expected), their_time = timed(lambda: cell_by_cell(EmbeddedTriplets(table, embeddings, STEMS), weights))
    figures = {
        "triplets": len(table),
        "stems": len(STEMS),
        "dim": given.dim,
        "ours, s": our_time,
        "cell by cell, s": their_time,
        "agreement": [ours, theirs],
        "largest difference of a preference": float((preference - expected).abs().max()),
    }
    print(json.dumps(figures, indent=2))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
