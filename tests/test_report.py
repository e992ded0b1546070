"""`stemsim report`: results of runs on one page and in W&B, and the sweeps that make such runs."""

import base64
import io
import json
import re
import shlex
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from jobs import read
from jobs import run as run_job
from PIL import Image
from rich.console import Console
from tables import make_triplets, with_features
from typer.testing import CliRunner
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb_files import records

from stemsim.analysis import ANALYSES, summarise
from stemsim.cli import app
from stemsim.errors import ConfigError, DataNotFoundError, ResultsError
from stemsim.evaluation import Splits, cross_validate
from stemsim.fitting.votes import distinct_vote_models
from stemsim.report.page import comparison_rows, render_report
from stemsim.report.plots import figures, plot_run_weights, svg_text
from stemsim.report.results import CrossvalResults, FitResults, PartResults
from stemsim.report.run_files import read_run, read_runs
from stemsim.report.style import save_figure
from stemsim.report.tables import frames, show
from stemsim.stems import LAYOUTS
from stemsim.training.cli import StemsimCLI, main
from stemsim.training.wandb_summary import common_group, log_summary

ROOT = Path(__file__).resolve().parents[1]
SWEEPS = sorted((ROOT / "configs/sweeps").glob("*.yaml"))
EXPERIMENTS = sorted((ROOT / "configs").glob("*.yaml"))
STEMS = LAYOUTS["4-stem"]


class Elements(HTMLParser):
    """All elements with their attributes, and the text of the page."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def having(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def write_run(folder, triplets, *, alphas, jobs):
    """Write the folder of a run as the jobs of train.py do, with random stem features."""
    folder.mkdir()
    embedded = with_features(triplets, np.random.default_rng(1).normal(size=(len(triplets), len(STEMS))), STEMS)
    splits = Splits.draw(triplets, count=6)
    crossval = cross_validate(embedded, splits, distinct_vote_models(embedded), alphas=alphas)
    half, origin = dict.fromkeys(STEMS, 0.5), {"source": triplets.source, "simulated": True}
    fit = {"method": "ridge", "fusion": "LinearFusion", "l2": 0.1, "max_abs_weight_gap": 1e-9, "closed_form": half}
    fit |= {"weights": half, "true_weights": half, "cosine_to_true_weights": 1.0, "metrics": {"train/agreement": 0.9}}
    test = {"split": "stratified", "tracks": 8, "checkpoint": "last.ckpt", "metrics": {"test/agreement": 0.75}}
    results = {
        "crossval": CrossvalResults.of(summarise(crossval, ANALYSES)),
        "fit": FitResults(**origin, **fit, triplets=84),
        "test": PartResults(**origin, **test, part="test", triplets=36),
    }
    for job in jobs:
        results[job].write(folder)
        for name in figures(results[job]):  # pictures of a few pixels, where drawing the real ones takes a second
            Image.effect_noise((8, 1 + len(name)), 50).save(folder / f"{name}.png")
    settings = yaml.safe_load((ROOT / "configs/demo.yaml").read_text(encoding="utf-8"))
    del settings["trainer"]["logger"]  # a run without W&B
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    rows = []
    for index in range(3 if "test" in jobs else 0):
        row = {"duration": 5.0, "test_type": triplets.test_type[index], "votes_a": 4, "votes_b": 1}
        for role, member in zip("xab", triplets.members[index], strict=True):
            segment = triplets.segments[member]
            row |= {f"{role}_path": segment.path, f"{role}_start": segment.start}
        rows.append(row | {"preference": -0.5, "contribution_drums": -0.6, "contribution_mix": 0.1})
        pd.DataFrame(rows).to_csv(folder / "test_worst_triplets.csv", index=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs of one listening test: all jobs of the first, the cross-validation of the second."""
    base, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    triplets = make_triplets(rng, 200, tracks=12)
    for track in set(triplets.tracks):
        soundfile.write(base / f"{track}.wav", rng.normal(0.0, 0.1, (15 * 8000, 2)), 8000)
    segments = tuple(replace(one, path=base / one.path) for one in triplets.segments)
    triplets = replace(triplets, segments=segments, source="made-up listeners")
    write_run(base / "first", triplets, alphas=[0.1, 1.0, 10.0], jobs=("fit", "test", "crossval"))
    write_run(base / "second", triplets, alphas=[50.0], jobs=("crossval",))
    return base


@pytest.fixture(scope="module")
def page(runs):
    return render_report(read_runs([runs / "first", runs / "second"]), worst=2, command="stemsim report").html


def copy(run, folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes((run / name).read_bytes())
    return folder


def printed(results):
    console = Console(width=80, record=True, file=io.StringIO())
    show(results, console)
    return console.export_text()


def test_page_asks_for_nothing_outside_itself(page):
    seen = Elements(page)
    names = {"src", "srcset", "href", "xlink:href", "action", "data", "poster", "background", "formaction"}
    addresses = [one[name] for _, one in seen.elements for name in names & set(one)]
    assert addresses
    assert all(value.startswith(("data:", "#")) for value in addresses)
    assert not {tag for tag, _ in seen.elements} & {"link", "iframe", "object", "embed", "base", "form"}
    code = re.sub(r"data:[a-z/]+;base64,[A-Za-z0-9+/=]*", "", page)
    code = re.sub(r'xmlns(:xlink)?="[^"]*"', "", code)
    assert not re.search(r"://|@import|url\((?!#)|\bfetch\(|XMLHttpRequest|import\(|sendBeacon|WebSocket", code)
    policy = next(one["content"] for one in seen.having("meta") if "http-equiv" in one)
    assert policy.startswith("default-src 'none'")


def test_the_interval_of_a_weight_is_the_same_in_file_terminal_page_and_picture(runs, page):
    run = read_run(runs / "first")
    terminal, document = printed(run.crossval), read(runs / "first/crossval.json")
    table = page[page.index("first, weights by stem") : page.index("second, weights by stem")]
    drawing = svg_text([run])
    ticks = re.findall(r'id="xtick_\d+">.*?<use [^>]*x="([\d.]+)".*?<text[^>]*>([^<]+)</text>', drawing, re.DOTALL)
    places, values = zip(*((float(x), float(label.replace("−", "-"))) for x, label in ticks), strict=True)  # noqa: RUF001
    slope, offset = np.polyfit(places, values, 1)
    lines = re.findall(r'd="M ([\d.]+) ([\d.]+) \nL ([\d.]+) \2 \n"', drawing)
    drawn = np.array([[slope * float(start) + offset, slope * float(end) + offset] for start, _, end in lines])
    for stem in STEMS:
        ends = [document["by_stem"][stem][end] for end in ("lower", "upper")]
        cell = re.escape(f"[{ends[0]:.2f}, {ends[1]:.2f}]")
        assert re.search(rf"│ {stem} .*{cell}", terminal)
        assert re.search(rf"<td>{stem}</td>.*{cell}", table)
        assert np.abs(drawn - ends).max(axis=1).min() < 1e-3


def test_files_are_read_as_written_and_tables_of_80_columns_hold_the_same_numbers(runs):
    run = read_run(runs / "first")
    assert run.crossval.leakage.same_test[0].verdict  # the class of the analysis itself
    for results in run.results:
        written = (runs / f"first/{results.file_stem}.json").read_text(encoding="utf-8")
        assert results.model_dump_json(exclude_none=True, indent=2) + "\n" == written
        lines = printed(results).splitlines()
        assert all(len(line) <= 80 for line in lines if line[:1] in set("┏┃┡│└"))
    assert "fitted weights" in printed(run.test)
    assert "true (simulated), scaled" in printed(run.fit)
    tables = frames(run.crossval)
    weights = tables["crossval_weights"].set_index("stem")
    ridge = next(model for model in run.crossval.models if model.name == "ridge")
    assert weights["ridge"].to_dict() == {stem: score.mean for stem, score in ridge.weights.items()}
    stems = tables["crossval_stems"].set_index("stem")
    assert stems["lower"].to_dict() == {stem: row.lower for stem, row in run.crossval.by_stem.items()}
    assert frames(run.fit)["weights"]["fitted"].tolist() == [0.5] * 5
    assert frames(run.test) == {}
    for truth, scaled in ((7.0, 0.5), (-1.0, 0.0)):  # true weights are scaled to the fitted ones
        again = run.fit.model_copy(update={"true_weights": dict.fromkeys(STEMS, truth)})
        assert list(again.columns["true (simulated), scaled"].values()) == pytest.approx([scaled] * 5)


def test_every_job_has_its_pictures(runs, tmp_path):
    run = read_run(runs / "first")
    drawn = {**figures(run.fit), **figures(run.test), **figures(run.crossval)}
    assert set(drawn) == {"fit", "crossval", "crossval_intervals", "crossval_ridge_path"}
    save_figure(drawn["crossval"], tmp_path / "new/crossval.png")
    assert (tmp_path / "new/crossval.png").stat().st_size > 10_000
    plain = run.crossval.model_copy(update={"penalty": None, "leakage": None})
    assert set(figures(plain)) == {"crossval", "crossval_intervals"}


def test_table_holds_every_model_of_every_run_and_marks_the_best(runs, page):
    table = page[page.index('id="comparison"') : page.index("Mean ± standard deviation over the splits.")]
    cells = re.findall(r"<tr[^>]*><td>(\w+)</td><td>([^<]+)</td>(.*?)</tr>", table, flags=re.DOTALL)
    scores = {
        (run, model["name"]): (model["agreement"]["all"], model["kind"])
        for run in ("first", "second")
        for model in read(runs / run / "crossval.json")["models"]
    }
    top = max(score["mean"] for score, kind in scores.values() if kind != "ceiling")
    assert {(run, name) for run, name, _ in cells} == set(scores)
    for run, name, rest in cells:
        score, kind = scores[run, name]
        best, value, text = re.search(r'<td class="n( best)?" data-value="([^"]*)">([^<]*?) *<', rest).groups()
        assert text == f"{100 * score['mean']:.1f} ± {100 * score['std']:.1f}"
        assert float(value) == pytest.approx(100 * score["mean"], abs=1e-5)
        assert bool(best) == (score["mean"] == top and kind != "ceiling")


def test_runs_of_other_triplets_are_not_compared_with_each_other(runs, tmp_path):
    other = copy(runs / "second", tmp_path / "other", "crossval.json")
    document = read(other / "crossval.json") | {"triplets": 61}
    (other / "crossval.json").write_text(json.dumps(document), encoding="utf-8")
    both = read_runs([runs / "first", other])
    assert {row.run for row in comparison_rows(both) if "all" in row.best} == {"first", "other"}
    assert "differ in their triplets or splits" in render_report(both, audio=False).html
    same = read_runs([runs / "first", runs / "second"])
    assert "differ in their triplets or splits" not in render_report(same, audio=False).html


def test_verdicts_settings_and_pictures_are_on_the_page(runs, page):
    seen = Elements(page)
    for run in ("first", "second"):
        for sentence in read(runs / run / "crossval.json")["verdicts"]:
            assert sentence in seen.text
    for text in ("Multitrack (stems 6-stem)", "Spectral", "made-up listeners", "6 stratified, 70 % to train"):
        assert text in seen.text
    images = [base64.b64decode(one["src"].partition(",")[2]) for one in seen.having("img")]
    written = [path.read_bytes() for run in ("first", "second") for path in sorted((runs / run).glob("*.png"))]
    assert len(written) == 7
    assert images == written


def test_players_play_the_segments_of_the_worst_triplets(runs, page):
    worst = read_run(runs / "first").worst[:2]
    players = [one["src"] for one in Elements(page).having("audio")]
    segments = [segment for one in worst for segment in one.segments.values()]
    assert len(players) == len(segments) == 6
    for player, segment in zip(players, segments, strict=True):
        kind, _, data = player.partition(";base64,")
        assert kind == "data:audio/ogg"
        heard, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
        start, length = round(segment.start * rate), round(segment.duration * rate)
        original = soundfile.read(segment.path, start=start, frames=length, always_2d=True)[0].mean(axis=1)
        assert heard.shape == original.shape
        assert np.corrcoef(heard, original)[0, 1] > 0.9
        assert len(data) < len(original)  # under 8 bits a sample


def test_audio_that_is_gone_is_named_and_the_page_written(runs, tmp_path):
    run = copy(runs / "first", tmp_path / "moved", "test.json", "test_worst_triplets.csv")
    table = (run / "test_worst_triplets.csv").read_text(encoding="utf-8")
    moved = table.replace(str(runs), str(tmp_path / "gone"))
    (run / "test_worst_triplets.csv").write_text(moved, encoding="utf-8")
    report = render_report([read_run(run)], worst=1)
    assert report.gone
    assert all(str(tmp_path / "gone") in reason for reason in report.gone)
    assert "No audio: " in report.html
    assert "<audio" not in report.html


def test_weights_of_one_scale_are_drawn_for_all_runs_with_their_spread(runs):
    found = read_runs([runs / "first", runs / "second"])
    axes = plot_run_weights(found).axes[0]
    lines = [line.get_xdata() for line in axes.get_lines()]
    for run in found:
        for model in (one for one in run.crossval.models if one.name in {"OLS", "ridge"}):
            for score in model.weights.values():
                for drawn in ([score.mean], [score.mean - score.std, score.mean + score.std]):
                    assert any(np.array_equal(line, drawn) for line in lines), (run.name, model.name)
    labels = axes.get_legend_handles_labels()[1]
    assert {"first: ridge, vote shares", "second: OLS"} < set(labels)
    assert not any("logistic" in label for label in labels)  # its weights are some times as large
    text = svg_text(found)
    assert text == svg_text(found)
    for name in ("first: OLS", "second: ridge", "drums", "currentColor"):
        assert name in text
    assert "#010203" not in text


def test_what_a_run_lacks_is_named_with_its_command(runs, page, tmp_path):
    assert "second lacks:" in page
    assert "first lacks:" not in page
    assert "python train.py test -c second.yaml --ckpt_path" in page
    bare = copy(runs / "first", tmp_path / "bare", "test.json")
    seen = Elements(render_report([read_run(bare)]).html).text
    nothing = ("No run was cross-validated", "No run has weights", "No job of this run wrote config.yaml")
    for said in ("python train.py fit -c bare.yaml", "python train.py crossval -c bare.yaml", *nothing):
        assert said in seen


def test_commands_of_the_page_make_the_same_results_again(tmp_path, monkeypatch):
    reader = "--data.triplets.init_args"
    given = [f"{reader}.songs.init_args.{one}" for one in ("count=5", "seconds=10", f"root={tmp_path / 'songs'}")]
    given += [f"{reader}.triplets=60", f"{reader}.min_agreement=0", f"--data.store={tmp_path / 'store'}"]
    options = {"fit": [], "test": [f"--ckpt_path={tmp_path}/first/checkpoints/last.ckpt"]}
    options["crossval"] = ["--splits=6", "--alphas=[0.5, 2.0]", '--report=["penalty", "votes"]']
    for job, arguments in options.items():
        run_job(job, "demo.yaml", tmp_path / "first", *given, *arguments)
    seen = Elements(render_report(read_runs([tmp_path / "first"]), audio=False).html)
    monkeypatch.chdir(tmp_path)
    link = next(one for one in seen.having("a") if one.get("download") == "first.yaml")
    Path("first.yaml").write_bytes(base64.b64decode(link["href"].partition(",")[2]))
    commands = [shlex.split(line)[2:] for line in seen.text.splitlines() if line.startswith("python train.py")]
    assert [command[0] for command in commands] == list(options)
    for command in commands:
        main([*command, "--trainer.default_root_dir", str(tmp_path / "again")])
    for name in ("fit.json", "test.json", "crossval.json"):
        assert read(tmp_path / "again" / name) == read(tmp_path / "first" / name)


def test_nothing_from_a_file_becomes_markup(runs, tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    names = ("crossval.json", "fit.json", "test.json", "config.yaml", "test_worst_triplets.csv", "fit.png")
    run = copy(runs / "first", tmp_path / evil, *names)
    for name in names[:3]:
        document = read(run / name) | {"source": "<script>evil</script>", "verdicts": ["<script>evil</script>"]}
        if name == "crossval.json":
            document["models"][4]["name"] = "<b>evil $x$"
        (run / name).write_text(json.dumps(document), encoding="utf-8")
    html = render_report([read_run(run)], worst=1, command=evil).html
    assert evil not in html
    assert "<script>evil" not in html
    assert "<b>evil" not in html
    assert "&lt;b&gt;evil $x$" in html
    assert len(Elements(html).having("script")) == 1


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("crossval.json", b"", "does not hold the results"),
        ("crossval.json", b"\xff\xfe\x00", "does not hold the results"),
        ("crossval.json", b"[1, 2]", "valid dictionary"),
        ("crossval.json", b"{}", "source: Field required"),
        ("crossval.json", b'{"source": "x", "simulated": true, "models": {"ridge": 3}}', "Field required"),
        ("fit.json", b'{"source": "x", "simulated": true, "metrics": {"a": "high"}}', "does not hold"),
        ("test.json", b'{"source": "x"}', "simulated: Field required"),
        ("config.yaml", b"a: [", "expected YAML"),
        ("config.yaml", b"- a", "expected settings by name"),
        ("test_worst_triplets.csv", b"", "it has no rows"),
        ("test_worst_triplets.csv", b"x_path,x_start\nsong.wav,0.0\n", "no column 'duration'"),
    ],
)
def test_damaged_files_are_errors_that_name_the_file(runs, tmp_path, name, damage, said):
    given = ("crossval.json", "fit.json", "test.json", "config.yaml", "test_worst_triplets.csv")
    run = copy(runs / "first", tmp_path / "run", *given)
    (run / name).write_bytes(damage)
    with pytest.raises(ResultsError, match=said) as caught:
        read_run(run)
    assert name in str(caught.value)
    if name == "fit.json":  # cut anywhere
        whole = (runs / "first/fit.json").read_bytes().rstrip()
        for length in range(0, len(whole), 37):
            (run / name).write_bytes(whole[:length])
            with pytest.raises(ResultsError):
                read_run(run)


def test_numbers_that_are_not_there_are_dashes(runs, tmp_path):
    run = copy(runs / "first", tmp_path / "run", "crossval.json", "fit.json")
    document = read(run / "crossval.json")
    for model in document["models"]:
        model["agreement"]["XYC"] = {"mean": None, "std": None}
        model["share_of_ceiling"] = None
    for row in document["by_stem"].values():
        row |= {"lower": None, "upper": None}
    (run / "crossval.json").write_text(json.dumps(document), encoding="utf-8")
    html = render_report([read_run(run)]).html
    assert "nan" not in Elements(html).text
    assert '<td class="n" data-value="-">-</td>' in html
    assert "crossval_intervals" not in figures(read_run(run).crossval)


def test_runs_are_told_apart_and_other_folders_are_errors(runs, tmp_path):
    left, right = (copy(runs / "first", tmp_path / f"{side}/run", "fit.json") for side in ("left", "right"))
    assert [run.name for run in read_runs([left, right, left])] == ["left/run", "right/run"]
    with pytest.raises(ConfigError, match="at least one run"):
        render_report([])
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name in ("absent", "empty", "file"):
        with pytest.raises(DataNotFoundError, match="expected the folder of a run"):
            read_run(tmp_path / name)


def test_command_says_what_it_wrote_and_how_large_it_is(runs, tmp_path):
    output = tmp_path / "new/report.html"
    result = CliRunner().invoke(app, ["report", str(runs / "second"), "--output", str(output), "--no-audio"])
    assert result.exit_code == 0, result.output
    assert f"Wrote {output} ({output.stat().st_size / 2**20:.1f} MiB)" in result.output
    assert "second lacks test: python train.py test" in result.output
    assert "Save its settings from the page as second.yaml." in result.output
    assert "--no-audio" in Elements(output.read_text(encoding="utf-8")).text


def test_errors_of_the_command_are_messages(runs, tmp_path):
    run, new = str(runs / "second"), str(tmp_path / "r.html")
    for arguments, said in (
        (["absent"], "expected the folder of a run"),
        ([run, "--output", run], "cannot be written"),
        ([run, "--online"], "--wandb-project"),
        ([run, "--wandb-group", "g"], "--wandb-project"),
        ([run, "--output", new, "--wandb-project", "p"], "--wandb-group"),
    ):
        result = CliRunner().invoke(app, ["report", *arguments])
        assert result.exit_code == 2
        assert said in " ".join(result.output.split())


def test_summary_run_holds_tables_plot_and_audio_offline(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    found = read_runs([runs / "first", runs / "second"])
    folder = log_summary(found, "stemsim", group="pair", folder=tmp_path, worst=2)
    assert folder.parent == tmp_path / "wandb"
    for _ in range(60):  # W&B's service writes the end of the file a moment after the run has finished
        logged = list(records(next(folder.glob("*.wandb"))))
        if any(record.HasField("exit") for record in logged):
            break
        time.sleep(0.5)
    run = next(record.run for record in logged if record.HasField("run"))
    assert (run.project, run.run_group, run.job_type) == ("stemsim", "pair", "summary")
    comparison = read(next(folder.rglob("comparison*.table.json")))
    rows = [[row.run, row.model.name, 100 * row.model.agreement["all"].mean] for row in comparison_rows(found)]
    assert [line[:3] for line in comparison["data"]] == rows
    worst = read(next(folder.rglob("worst_triplets*.table.json")))
    assert [line[-2] for line in worst["data"]] == [one.preference for one in found[0].worst[:2]]
    sounds = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes()[:4] == b"RIFF"]
    distinct = {segment for one in found[0].worst[:2] for segment in one.segments.values()}
    assert len({path.read_bytes() for path in sounds}) == len(distinct)
    assert all(soundfile.info(path).channels == 1 for path in sounds)
    assert next(folder.rglob("*.png")).stat().st_size > 10_000
    said = {item.key or "/".join(item.nested_key) for record in logged for item in record.summary.update}
    assert {"verdicts/first", "verdicts/second"} <= said


def test_runs_of_one_experiment_share_their_group(runs, tmp_path):
    for config in EXPERIMENTS:
        logger = yaml.safe_load(config.read_text(encoding="utf-8"))["trainer"]["logger"]["init_args"]
        assert (logger["project"], logger["group"], logger["offline"]) == ("stemsim", config.stem, True)
    folders = []
    for name, group in (("a", "one"), ("b", "one"), ("c", "other")):
        folders.append(copy(runs / "first", tmp_path / name, "fit.json"))
        settings = {"trainer": {"logger": {"class_path": "WandbLogger", "init_args": {"group": group}}}}
        (folders[-1] / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert common_group(read_runs(folders[:2])) == "one"
    with pytest.raises(ConfigError, match="they have: one, other"):
        common_group(read_runs(folders))


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda path: path.stem)
def test_every_point_of_a_sweep_is_a_command_of_train(sweep, monkeypatch):
    for name in ("instantiate_classes", "_run_subcommand"):  # the command line up to where it would build something
        monkeypatch.setattr(StemsimCLI, name, lambda *_: None)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    config = yaml.safe_load(sweep.read_text(encoding="utf-8"))
    assert (config["method"], config["program"]) == ("grid", "train.py")
    grid = {name: entry["values"] for name, entry in config["parameters"].items()}
    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name) for name in grid)  # W&B's rule
    points = [[v[i % len(v)] for v in grid.values()] for i in range(max(map(len, grid.values())))]  # every value once
    parser = None
    for point in points:
        values = {name: {"value": value} for name, value in zip(grid, point, strict=True)}
        macros = create_sweep_command_args({"args": values}) | {"env": [], "interpreter": [], "program": []}
        command = []
        for part in create_sweep_command(list(config["command"])):  # as W&B's agent puts it together
            macro = part.startswith("${") and part.endswith("}")
            command += macros[part[2:-1]] if macro else [part]
        parser = parser or StemsimCLI(command).parser
        parsed = parser.parse_args(command)[command[0]]
        assert str(parsed.trainer.default_root_dir).endswith("abc123")
        assert parsed.trainer.logger.init_args.group == f"sweep-{sweep.stem}"
        for name, value in zip(grid, point, strict=True):
            path = ROOT / str(value)  # of a class, or the value itself
            named = yaml.safe_load(path.read_text(encoding="utf-8"))["class_path"] if path.is_file() else value
            assert named in (parsed[name], getattr(parsed[name], "class_path", None)), name
    with pytest.raises(SystemExit):
        parser.parse_args([*command, "--model.no_such_setting=1"])
