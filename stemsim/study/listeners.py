"""Simulated listeners with known weights: how many votes personal weights need, and what choosing the questions saves.

Songs and listeners are those of `stemsim.study.simulation`: the paper's weights, each times a lognormal factor of a
listener's own, and a part of the impression that no stem embedding shows. Each of a listener's answers is a lapse with
a small probability. All listeners answer questions about one library, drawn afresh each time.

**Questions.** The angle between the most probable and the true weights, after each number of votes, where the questions
are drawn at random, and where 80 % of them are chosen as the most informative of thousands (`stemsim.fitting.active`);
from a flat prior, and from the paper's weights.

**Personal weights.** The share of held-out triplets on which the weights choose as the listener's true weights do, for
listeners near the prior, far from it, and others who depart as far from small weights as from large ones, which the
prior does not expect; and for priors of the right width, a third of it and three times it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress

from stemsim.errors import ConfigError
from stemsim.evaluation.agreement import agreement_credit
from stemsim.fitting.active import RANDOM_SHARE, gain
from stemsim.fitting.listener import SPREAD, WeightPrior, answer_probability, fit_listener, weight_posterior
from stemsim.replacing import write_text
from stemsim.report.style import GREY, LEGEND, SERIES_COLORS, new_figure, save_figure
from stemsim.report.text import TextTable
from stemsim.study import simulation
from stemsim.study.experiments import PAPER_WEIGHTS, angles
from stemsim.study.settings import StudySettings
from stemsim.study.simulation import ImpressionScale, impressions
from stemsim.triplets.table import FloatArray

_NOISE: Final = 0.25  # ceilings as in Inst-Sim-ABX
_LAPSE: Final = 0.03
_TRACKS: Final = 130
_POPULATION: Final = 20_000  # triplets by which impressions are scaled
_NEAR: Final = "near the prior"
_OTHER: Final = "additive"
_TASTES: Final = {_NEAR: 0.5, "far from it": 1.0, _OTHER: 0.5}  # standard deviation of the logarithm of each weight;
# of additive listeners, that of each weight over the root mean square of all
_WIDTHS: Final = {"a third": 1 / 3, "right": 1.0, "three times": 3.0}
_PRIORS: Final = ("nothing", "the paper")
_SHOWN: Final = (0, 5, 20, 40, 80, 200)  # numbers of votes in the tables
_CHOICES: Final = ("random", "active")


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """Settings of the simulation.

    Attributes:
        listeners: Number of listeners of each kind.
        votes: Numbers of votes at which the angle to the true weights is measured.
        personal_votes: Numbers of votes at which personal weights are compared with the prior.
        candidates: Triplets drawn for each question.
        held_out: Triplets on which personal weights are compared with the prior.
        seed: Seed of everything that is drawn.
    """

    listeners: int = 60
    votes: tuple[int, ...] = (5, 10, 20, 30, 40, 60, 80, 120, 160, 200)
    personal_votes: tuple[int, ...] = (5, 20, 80)
    candidates: int = 2000
    held_out: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Verify ranges."""
        counts = (*self.votes, *self.personal_votes)
        if min(self.listeners - 1, self.candidates, self.held_out, len(self.votes), *counts) < 1:
            raise ConfigError(f"A simulation needs two listeners, and one of everything else; got {self}.")


@dataclass(frozen=True, slots=True, eq=False)
class ListenerFindings:
    """Figures of the simulation.

    Attributes:
        questions: A row for each prior, choice and number of votes: mean `angle` in degrees, and its standard `error`.
        saved: A row for each prior and number of random `votes`: the number of votes after which the choice of the most
            informative ones has reached the same angle, `active`; NaN: not within the votes simulated.
        personal: A row for each kind of listeners, width of the prior and number of votes: mean agreement `before` and
            `after` in %, the mean `gain` in points with its standard `error`, and the share of listeners `below` the
            prior.
    """

    settings: ListenerSettings
    questions: pd.DataFrame
    saved: pd.DataFrame
    personal: pd.DataFrame


class _World:
    """A library of songs, and listeners who answer questions about it."""

    def __init__(self, settings: ListenerSettings) -> None:
        self.settings = settings
        self.study = StudySettings(seed=settings.seed)
        rng = self.study.generator("listeners' scale")
        drawn = simulation.draw_triplets(self.study, _POPULATION // 1000, 1000, rng)
        self.scale = ImpressionScale.of(impressions(drawn, "linear"))
        self.deltas = drawn.deltas.reshape(-1, len(PAPER_WEIGHTS))
        self.vectors, self.levels, _ = simulation.draw_songs(self.study, 1, _TRACKS, self.study.generator("library"))

    def truths(self, kind: str) -> FloatArray:
        """Draw the true weights `(listener, stem)`."""
        draws = self.study.generator("tastes").standard_normal((self.settings.listeners, len(PAPER_WEIGHTS)))
        departures = _TASTES[kind] * draws
        if kind == _OTHER:
            size = np.sqrt(np.square(PAPER_WEIGHTS).mean())
            weights: FloatArray = np.maximum(PAPER_WEIGHTS + size * departures, 0.0)
        else:
            weights = PAPER_WEIGHTS * np.exp(departures)
        return weights

    def ask(self, count: int, truths: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draw triplets; return their features `(triplet, stem)` and each listener's P(A) `(listener, triplet)`."""
        members = simulation.draw_members(1, count, _TRACKS, rng)
        heard = impressions(simulation.compare(self.vectors, self.levels, members), "linear")[0]
        stems = heard[:, :-1]
        size = np.sqrt(np.einsum("ls,st,lt->l", truths, self.scale.moments, truths))[:, None]
        beside = (heard[:, -1] - stems @ self.scale.slopes) * self.study.unheard / self.scale.beside
        evidence = (truths @ stems.T / size + beside) / np.sqrt(1.0 + self.study.unheard**2)
        return stems, answer_probability(evidence / _NOISE, _LAPSE)


def simulate_listeners(settings: ListenerSettings, *, progress: bool = True) -> ListenerFindings:
    """Simulate listeners, and measure how soon their weights are known.

    Args:
        settings: Sizes and seed.
        progress: Show progress bars on standard error.
    """
    world = _World(settings)
    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bars:
        questions = _compare_choices(world, bars)
        personal = _compare_with_prior(world, bars)
    return ListenerFindings(settings, questions, _saved(questions), personal)


def _compare_choices(world: _World, bars: Progress) -> pd.DataFrame:
    """Measure the angle to the true weights after each number of votes."""
    truths = world.truths(_NEAR)
    priors = (WeightPrior.flat(world.deltas), WeightPrior.around(PAPER_WEIGHTS, world.deltas))
    rows = []
    for name, prior in zip(_PRIORS, priors, strict=True):
        for choice in _CHOICES:
            share = RANDOM_SHARE if choice == "active" else 1.0
            found = _course(world, truths, prior, share, bars, f"From {name}, {choice}")
            rows += [(name, choice, 0, *_mean(angles(np.tile(prior.mean, (len(truths), 1)), truths)))]
            rows += [(name, choice, votes, *_mean(angles(weights, truths))) for votes, weights in found.items()]
    return pd.DataFrame(rows, columns=["prior", "choice", "votes", "angle", "error"])


def _course(
    world: _World, truths: FloatArray, prior: WeightPrior, share: float, bars: Progress, name: str
) -> dict[int, FloatArray]:
    """Return the most probable weights `(listener, stem)` after each number of votes.

    The choice is that of `choose_question`, for all listeners at once.
    """
    settings, rng = world.settings, world.study.generator("questions")
    listener, most = np.arange(len(truths)), max(settings.votes)
    deltas, choices = np.zeros((len(truths), most, truths.shape[1])), np.zeros((len(truths), most), np.int64)
    found = {}
    for vote in bars.track(range(most), description=name):
        candidates, chance = world.ask(settings.candidates, truths, rng)
        row = rng.integers(len(candidates), size=len(truths))
        chosen = rng.random(len(truths)) >= share
        if share < 1.0:
            known = weight_posterior(deltas[:, :vote], choices[:, :vote], prior)
            row = np.where(chosen, gain(known, candidates).argmax(axis=1), row)
        deltas[:, vote] = candidates[row]
        choices[:, vote] = np.where(rng.random(len(truths)) < chance[listener, row], 1, -1)
        if vote + 1 in settings.votes:
            found[vote + 1] = weight_posterior(deltas[:, : vote + 1], choices[:, : vote + 1], prior).mean
    return found


def _compare_with_prior(world: _World, bars: Progress) -> pd.DataFrame:
    """Compare personal weights with the prior on held-out triplets."""
    settings, rows = world.settings, []
    for kind in bars.track(_TASTES, description="Personal weights"):
        truths, rng = world.truths(kind), world.study.generator("personal")
        asked, chance = zip(
            *(world.ask(max(settings.personal_votes), truths, rng) for _ in range(len(truths))), strict=True
        )
        deltas = np.stack(asked)  # (listener, vote, stem): questions of each listener's own
        own = np.stack([one[listener] for listener, one in enumerate(chance)])
        choices = np.where(rng.random(own.shape) < own, 1, -1)
        held_out = world.ask(settings.held_out, truths, rng)[0]
        choice = np.sign(truths @ held_out.T)
        before = agreement_credit(PAPER_WEIGHTS @ held_out.T, choice).mean(axis=1)
        for width, factor in _WIDTHS.items():
            prior = WeightPrior.around(PAPER_WEIGHTS, world.deltas, spread=SPREAD * factor)
            for votes in settings.personal_votes:
                fit = fit_listener(deltas[:, :votes], choices[:, :votes], prior)
                after = agreement_credit(fit.mean @ held_out.T, choice).mean(axis=1)
                mean, error = _mean(100.0 * (after - before))
                figures = (100.0 * before.mean(), 100.0 * after.mean(), mean, error, 100.0 * (after < before).mean())
                rows.append((kind, width, votes, *figures))
    names = ["listeners", "width", "votes", "before", "after", "gain", "error", "below"]
    return pd.DataFrame(rows, columns=names)


def _mean(values: FloatArray) -> tuple[float, float]:
    """Return the mean of values, and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _saved(questions: pd.DataFrame) -> pd.DataFrame:
    """Return after how many votes the active choice has reached the angle of random questions."""
    rows = []
    for prior, own in questions.groupby("prior", sort=False):
        angle = own.pivot_table("angle", index="votes", columns="choice")
        counts, active = angle.index.to_numpy(float), angle["active"].to_numpy()
        for votes, target in angle["random"].iloc[1:].items():
            reached = np.flatnonzero(active <= target)
            needed = np.nan
            if len(reached):
                last = int(reached[0])
                ends = slice(max(last - 1, 0), last + 1)
                needed = float(np.interp(target, active[ends][::-1], counts[ends][::-1]))
            rows.append((prior, votes, target, needed))
    return pd.DataFrame(rows, columns=["prior", "votes", "angle", "active"])


def listener_tables(findings: ListenerFindings) -> str:
    """Return the figures as Markdown tables."""
    questions, saved, personal = findings.questions, findings.saved, findings.personal
    angle = questions.assign(text=[f"{a:.1f} ± {e:.1f}" for a, e in questions[["angle", "error"]].to_numpy()])
    needed = saved.assign(text=["more" if np.isnan(one) else f"{one:.0f}" for one in saved["active"]])
    gains = personal.assign(
        text=[f"{row.after:.1f} ({row.gain:+.1f} ± {row.error:.1f})" for row in personal.itertuples()],
        case=[f"{row.listeners} ({row.before:.1f} before), {row.width} width" for row in personal.itertuples()],
    )
    sections = {
        "Angle to the true weights in degrees, mean ± standard error": _wide(
            angle.assign(case=angle["prior"] + ", " + angle["choice"]), "from"
        ),
        "Active votes for the angle of that many random ones": _wide(needed.assign(case=needed["prior"]), "from"),
        "Personal weights: agreement with the true weights' choices in % (gain over the prior in points)": _wide(
            gains, "listeners and prior"
        ),
    }
    return "\n".join(f"## {title}\n\n{table.markdown()}\n" for title, table in sections.items())


def _wide(rows: pd.DataFrame, heading: str) -> TextTable:
    """Return the text of each row, a line for each case and a column for each number of votes."""
    frame = rows.pivot_table("text", index="case", columns="votes", aggfunc="first", sort=False)
    frame = frame[[votes for votes in _SHOWN if votes in frame.columns]]
    cells = [(str(name), *row) for name, row in zip(frame.index, frame.to_numpy().tolist(), strict=True)]
    return TextTable("", (f"{heading} / votes", *map(str, frame.columns)), tuple(cells))


def write_listeners(findings: ListenerFindings, folder: Path) -> list[Path]:
    """Write listeners.json, listeners.md and listeners.png, and return their paths."""
    document, text, picture = written = [folder / f"listeners.{suffix}" for suffix in ("json", "md", "png")]
    frames = {name: getattr(findings, name) for name in ("questions", "saved", "personal")}
    figures = {name: json.loads(frame.to_json(orient="records")) for name, frame in frames.items()}
    write_text(document, json.dumps({"settings": asdict(findings.settings), **figures}, indent=2) + "\n")
    write_text(text, f"# Simulated listeners\n\n{listener_tables(findings)}")
    _plot(findings, picture)
    return written


def _plot(findings: ListenerFindings, path: Path) -> None:
    """Draw the angles by number of votes, and the gains of personal weights."""
    figure, axes = new_figure(11.0, 3.6, columns=3)
    for panel, (prior, own) in zip(axes, findings.questions.groupby("prior", sort=False), strict=False):
        for color, choice in zip(SERIES_COLORS, _CHOICES, strict=False):
            rows = own[(own["choice"] == choice) & (own["votes"] > 0)]
            panel.errorbar(
                rows["votes"], rows["angle"], 1.96 * rows["error"], color=color, marker="o", ms=3, label=choice
            )
        panel.set(title=f"from {prior}", xlabel="votes", ylabel="degrees to the true weights", xscale="log")
        panel.set_xticks([5, 20, 40, 80, 200], ["5", "20", "40", "80", "200"])
        panel.set_xticks([], minor=True)
        panel.set_ylim(bottom=0.0)
        panel.legend(**LEGEND)
    colors = dict(zip(_WIDTHS, SERIES_COLORS, strict=False))
    styles = dict(zip(_TASTES, ("-", "--", ":"), strict=True))
    for (kind, width), rows in findings.personal.groupby(["listeners", "width"], sort=False):
        look = {"color": colors[str(width)], "ls": styles[str(kind)], "marker": "o", "ms": 3}
        axes[2].errorbar(rows["votes"], rows["gain"], 1.96 * rows["error"], **look)
    for width, color in colors.items():
        axes[2].plot([], [], color=color, label=f"prior: {width} width")
    for kind, style in styles.items():
        axes[2].plot([], [], color="black", ls=style, label=kind)
    axes[2].axhline(0.0, color=GREY, lw=1.0)
    axes[2].set(
        title="personal weights", xlabel="votes", ylabel="gain in agreement over the prior, points", xscale="log"
    )
    axes[2].set_xticks(findings.settings.personal_votes, list(map(str, findings.settings.personal_votes)))
    axes[2].set_xticks([], minor=True)
    axes[2].legend(**LEGEND)
    save_figure(figure, path)
