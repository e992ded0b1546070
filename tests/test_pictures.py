"""Pictures of results: no text is cut or covers another, and every picture shows what it is about."""

from dataclasses import replace

import numpy as np
import pytest
from tables import make_triplets, voted, with_features

from stemsim.analysis import summarise
from stemsim.analysis.perspectives import compare_perspectives
from stemsim.evaluation import Splits, cross_validate
from stemsim.report.results import CrossvalResults, PerspectivesResults
from stemsim.stems import STEMS

pytest.importorskip("matplotlib")

SOURCES = [
    "simulated listeners, 7 songs of everything-is-free/",
    (
        "Inst-Sim-ABX, answers of 281 listeners to 5 s segments of 133 tracks of Slakh2100, instruments bass, drums, "
        "guitar, piano, residuals and mix, votes with agreement of at least 80 %, screened listeners only"
    ),
]


def drawn_texts(figure):
    """Return the visible texts of a figure with their boxes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    # Matplotlib keeps ticks that lie outside the axes and does not draw them.
    axes = [axis for one in figure.axes for axis in (one.xaxis, one.yaxis)]
    ticks = {label for axis in axes for label in axis.get_ticklabels()}
    shown = {label for axis in axes for tick in axis._update_ticks() for label in (tick.label1, tick.label2)}
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text not in ticks or text in shown]


def results(source, kind="stratified"):
    """Return results of a cross-validation and of its perspectives."""
    embedded = voted(9, [1.0, 0.6, 0.3, 0.2, 0.1, 0.8, 1.0], triplets=331, tracks=14, stems=STEMS)
    embedded = with_features(replace(embedded.triplets, source=source), embedded.deltas, STEMS)
    result = cross_validate(embedded, Splits.draw(embedded.triplets, count=20, kind=kind))
    asked = dict.fromkeys(("overall", "timbre", "rhythm", "melody"), embedded)
    return CrossvalResults.of(summarise(result, ("penalty",))), PerspectivesResults.of(
        compare_perspectives(result, asked)
    )


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", ["stratified", "grouped"])
def test_no_text_is_cut_or_covers_another(tmp_path, source, kind):
    from stemsim.report.plots import figures
    from stemsim.report.style import save_figure

    found = {name: figure for one in results(source, kind) for name, figure in figures(one).items()}
    assert list(found) == ["crossval", "crossval_intervals", "crossval_ridge_path", "perspectives"]
    for name, figure in found.items():
        texts = drawn_texts(figure)
        assert source in " ".join(text for text, _ in texts).replace("\n", " "), name
        for text, box in texts:
            assert figure.bbox.x0 <= box.x0, text
            assert box.x1 <= figure.bbox.x1, text
            assert figure.bbox.y0 <= box.y0, text
            assert box.y1 <= figure.bbox.y1, text
        for index, (text, box) in enumerate(texts):
            for other, other_box in texts[index + 1 :]:
                assert not box.overlaps(other_box), f"{name}: {text!r} covers {other!r}"
        save_figure(figure, tmp_path / "sub" / f"{name}.png")
        assert (tmp_path / "sub" / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_triplets_without_a_ceiling_have_a_picture_without_it():
    from stemsim.report.plots import figures

    rng = np.random.default_rng(3)
    embedded = with_features(make_triplets(rng, 80, same_song=True), rng.normal(0.3, 1.0, size=(80, 3)))
    summary = summarise(cross_validate(embedded, Splits.draw(embedded.triplets, count=5)))
    figure = figures(CrossvalResults.of(summary))["crossval"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["ridge", "OLS", "uniform weights", "mix cosine"]
