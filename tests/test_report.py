"""`stemsim report`: what runs found on one page and in W&B, and the sweeps that make such runs."""

import base64
import io
import json
import re
import shlex
import struct
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image
from typer.testing import CliRunner

from stemsim.cli import app
from stemsim.errors import ConfigError, DataNotFoundError, ResultsError
from stemsim.evaluation.report_page import comparison_rows, render_report
from stemsim.evaluation.report_plot import plot_run_weights, svg_text
from stemsim.evaluation.run_files import read_run, read_runs
from stemsim.training.cli import StemsimCLI, main
from stemsim.training.wandb_summary import common_group, log_summary

ROOT = Path(__file__).resolve().parents[1]
SWEEPS = sorted((ROOT / "configs/sweeps").glob("*.yaml"))
EXPERIMENTS = sorted((ROOT / "configs").glob("*.yaml"))


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


class ParsedOnly(StemsimCLI):
    """The command line of `train.py` up to where it would build something."""

    def instantiate_classes(self):
        pass

    def _run_subcommand(self, subcommand):
        pass


def work(job, folder, songs, *arguments):
    reader = "--data.triplets.init_args"
    return main(
        [
            *(job, "-c", str(ROOT / "configs/demo.yaml"), "-c", str(ROOT / "configs/logger/csv.yaml")),
            *("--trainer.default_root_dir", str(folder), "--data.progress", "false"),
            *(f"{reader}.songs.init_args.root", str(songs / "songs"), "--data.store", str(songs / "store")),
            *(f"{reader}.songs.init_args.count", "5", f"{reader}.songs.init_args.seconds", "10"),
            *(f"{reader}.songs.init_args.sample_rate", "8000"),
            *(f"{reader}.triplets", "60", f"{reader}.min_agreement", "0", *arguments),
        ]
    )


def save_small(figure, path):
    """Write a picture of a few pixels, another one for each name, where drawing the real one takes a second."""
    Image.effect_noise((8, 1 + len(path.stem)), 50).save(path)


@pytest.fixture(scope="module", autouse=True)
def _small_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stemsim.training.results.save_figure", save_small)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs of one listening test: all jobs of the first, the cross-validation of the second."""
    base = tmp_path_factory.mktemp("runs")
    work("fit", base / "first", base)
    work("test", base / "first", base, "--ckpt_path", str(base / "first/checkpoints/last.ckpt"))
    work("crossval", base / "first", base, "--splits", "6")
    work("crossval", base / "second", base, "--splits", "6", "--alphas", "[50.0]")
    return base


@pytest.fixture(scope="module")
def page(runs):
    return render_report(read_runs([runs / "first", runs / "second"]), worst=2, command="stemsim report").html


def copy(run, folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        source = run / name if name != "config.yaml" else max(run.glob("csv/version_*/config.yaml"))
        (folder / name).write_bytes(source.read_bytes())
    return folder


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_page_asks_for_nothing_outside_itself(page):
    seen = Elements(page)
    addresses = [
        value
        for _, attributes in seen.elements
        for name, value in attributes.items()
        if name in {"src", "srcset", "href", "xlink:href", "action", "data", "poster", "background", "formaction"}
    ]
    assert addresses
    assert all(value.startswith(("data:", "#")) for value in addresses)
    assert not {tag for tag, _ in seen.elements} & {"link", "iframe", "object", "embed", "base", "form"}
    code = re.sub(r"data:[a-z/]+;base64,[A-Za-z0-9+/=]*", "", page)
    code = re.sub(r'xmlns(:xlink)?="[^"]*"', "", code)
    assert not re.search(r"://|@import|url\((?!#)|\bfetch\(|XMLHttpRequest|import\(|sendBeacon|WebSocket", code)
    policy = next(one["content"] for one in seen.having("meta") if "http-equiv" in one)
    assert policy.startswith("default-src 'none'")


def test_table_holds_every_model_of_every_run_and_marks_the_best(runs, page):
    table = page[page.index('id="comparison"') : page.index("Mean ± standard deviation over the splits.")]
    cells = re.findall(r"<tr[^>]*><td>(\w+)</td><td>([^<]+)</td>(.*?)</tr>", table, flags=re.DOTALL)
    expected, means = {}, {}
    for run in ("first", "second"):
        for name, model in read(runs / run / "crossval.json")["models"].items():
            score = model["agreement"]["all"]
            expected[run, name] = f"{100 * score['mean']:.1f} ± {100 * score['std']:.1f}"
            means[run, name] = score["mean"]
    assert {(run, name) for run, name, _ in cells} == set(expected)
    for run, name, rest in cells:
        first = re.search(r'<td class="n( best)?" data-value="([^"]*)">([^<]*?) *<', rest)
        assert first.group(3) == expected[run, name]
        assert float(first.group(2)) == pytest.approx(100 * means[run, name], abs=1e-5)
        top = max(mean for (_, other), mean in means.items() if not other.endswith("ceiling"))
        assert bool(first.group(1)) == (means[run, name] == top and not name.endswith("ceiling"))


def test_runs_of_other_triplets_are_not_compared_with_each_other(runs, tmp_path):
    other = copy(runs / "second", tmp_path / "other", "crossval.json")
    document = read(other / "crossval.json") | {"triplets": 61}
    (other / "crossval.json").write_text(json.dumps(document), encoding="utf-8")
    both = read_runs([runs / "first", other])
    best = {row.run for row in comparison_rows(both) if "all" in row.best}
    assert best == {"first", "other"}
    assert "differ in their triplets or splits" in render_report(both, audio=False).html
    same = read_runs([runs / "first", runs / "second"])
    assert "differ in their triplets or splits" not in render_report(same, audio=False).html


def test_verdicts_settings_and_pictures_are_on_the_page(runs, page):
    seen = Elements(page)
    for run in ("first", "second"):
        for sentence in read(runs / run / "crossval.json")["verdicts"]:
            assert sentence in seen.text
    for said in (
        "Multitrack (stems 6-stem)",
        "Spectral",
        "simulated listeners, 5 songs",
        "6 stratified, 70 % to train",
    ):
        assert said in seen.text
    images = [base64.b64decode(one["src"].partition(",")[2]) for one in seen.having("img")]
    written = [path.read_bytes() for run in ("first", "second") for path in sorted((runs / run).glob("*.png"))]
    assert len(written) == 7
    assert images == written


def test_players_play_the_segments_of_the_worst_triplets(runs, page):
    worst = read_run(runs / "first").worst[:2]
    players = [one["src"] for one in Elements(page).having("audio")]
    segments = [segment for one in worst for segment in (one.x, one.a, one.b)]
    assert len(players) == len(segments) == 6
    for player, segment in zip(players, segments, strict=True):
        kind, _, data = player.partition(";base64,")
        assert kind == "data:audio/ogg"
        heard, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
        start, length = round(segment.start * rate), round(segment.duration * rate)
        original = soundfile.read(segment.path, start=start, frames=length, always_2d=True)[0].mean(axis=1)
        assert heard.shape == original.shape
        assert np.corrcoef(heard, original)[0, 1] > 0.95
        assert len(data) < len(original)  # under 8 bits a sample


def test_audio_that_is_gone_is_named_and_the_page_written(runs, tmp_path):
    run = copy(runs / "first", tmp_path / "moved", "test.json", "test_worst_triplets.csv")
    table = (run / "test_worst_triplets.csv").read_text(encoding="utf-8")
    moved = table.replace(str(runs / "songs"), str(tmp_path / "gone"))
    (run / "test_worst_triplets.csv").write_text(moved, encoding="utf-8")
    report = render_report([read_run(run)], worst=1)
    assert report.gone
    assert all(str(tmp_path / "gone") in reason for reason in report.gone)
    assert "No audio: No audio file at" in report.html
    assert "<audio" not in report.html


def test_weights_of_all_runs_are_drawn_with_their_spread(runs):
    found = read_runs([runs / "first", runs / "second"])
    lines = plot_run_weights(found).axes[0].get_lines()
    for run in found:
        for model in (one for one in run.crossval.models if one.is_fitted):
            for stem, score in model.weights.items():
                assert any(np.array_equal(line.get_xdata(), [score.mean]) for line in lines), (run.name, stem)
                ends = [score.mean - score.std, score.mean + score.std]
                assert any(np.array_equal(line.get_xdata(), ends) for line in lines)
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
    for said in (
        "python train.py fit -c bare.yaml",
        "python train.py crossval -c bare.yaml",
        "No run was cross-validated",
        "No run has weights",
        "No job of this run wrote config.yaml",
    ):
        assert said in seen


def test_commands_of_the_page_make_the_same_results_again(runs, page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    link = next(one for one in Elements(page).having("a") if one.get("download") == "first.yaml")
    Path("first.yaml").write_bytes(base64.b64decode(link["href"].partition(",")[2]))
    commands = re.findall(
        r"^(?:<pre>)?python train\.py ((?:fit|test|crossval) -c first\.yaml.*)$", page, flags=re.MULTILINE
    )
    assert [command.split()[0] for command in commands] == ["fit", "test", "crossval"]
    for command in commands:
        main([*shlex.split(command), "--trainer.default_root_dir", str(tmp_path / "again")])
    for name in ("fit.json", "test.json", "crossval.json"):
        assert read(tmp_path / "again" / name) == read(runs / "first" / name)


def test_nothing_from_a_file_becomes_markup(runs, tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    run = copy(runs / "first", tmp_path / evil, "crossval.json", "fit.json", "test.json", "config.yaml")
    copy(runs / "first", run, "test_worst_triplets.csv", "fit.png")
    for name in ("crossval.json", "fit.json", "test.json"):
        document = read(run / name) | {"source": "<script>evil</script>", "verdicts": ["<script>evil</script>"]}
        if name == "crossval.json":
            document["models"]["<b>evil $x$"] = document["models"].pop("ridge")
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
        ("crossval.json", b"", "damaged: expected JSON"),
        ("crossval.json", b"\xff\xfe\x00", "damaged: expected JSON"),
        ("crossval.json", b"[1, 2]", "expected a JSON object, got a list"),
        ("crossval.json", b"{}", "not what train.py writes"),
        ("crossval.json", b'{"models": {"ridge": 3}}', "not what train.py writes"),
        ("fit.json", b'{"source": "x", "simulated": true, "metrics": {"a": "high"}}', "not what train.py writes"),
        ("test.json", b'{"source": "x"}', "not what train.py writes"),
        ("config.yaml", b"a: [", "expected YAML"),
        ("config.yaml", b"- a", "expected settings by name"),
        ("test_worst_triplets.csv", b"", "not what train.py writes"),
        ("test_worst_triplets.csv", b"x_path,x_start\nsong.wav,0.0\n", "not what train.py writes"),
    ],
)
def test_damaged_files_are_errors_that_name_the_file(runs, tmp_path, name, damage, said):
    given = ("crossval.json", "fit.json", "test.json", "config.yaml", "test_worst_triplets.csv")
    run = copy(runs / "first", tmp_path / "run", *given)
    (run / name).write_bytes(damage)
    with pytest.raises(ResultsError, match=said) as caught:
        read_run(run)
    assert name in str(caught.value)


def test_a_file_cut_anywhere_is_an_error_of_ours(runs, tmp_path):
    whole = (runs / "first/fit.json").read_bytes().rstrip()
    run = copy(runs / "first", tmp_path / "run", "fit.json")
    for length in range(0, len(whole), 37):
        (run / "fit.json").write_bytes(whole[:length])
        with pytest.raises(ResultsError):
            read_run(run)


def test_numbers_that_are_not_there_are_dashes(runs, tmp_path):
    run = copy(runs / "first", tmp_path / "run", "crossval.json", "fit.json")
    document = read(run / "crossval.json")
    for model in document["models"].values():
        model["agreement"]["XYC"] = {"mean": None, "std": None}
        model["share_of_ceiling"] = None
    (run / "crossval.json").write_text(json.dumps(document | {"by_stem": {}, "level": None}), encoding="utf-8")
    html = render_report([read_run(run)]).html
    assert "nan" not in Elements(html).text
    assert '<td class="n" data-value="–">–</td>' in html  # noqa: RUF001


@pytest.mark.parametrize("kind", ["absent", "empty", "file"])
def test_what_is_no_run_is_an_error(tmp_path, kind):
    folder = tmp_path / "run"
    if kind == "empty":
        folder.mkdir()
    if kind == "file":
        folder.write_text("x", encoding="utf-8")
    with pytest.raises(DataNotFoundError, match="expected the folder of a run"):
        read_run(folder)


def test_runs_of_one_name_are_told_apart_and_one_run_counts_once(runs, tmp_path):
    left = copy(runs / "first", tmp_path / "left/run", "fit.json")
    right = copy(runs / "first", tmp_path / "right/run", "fit.json")
    assert [run.name for run in read_runs([left, right, left])] == ["left/run", "right/run"]
    with pytest.raises(ConfigError, match="at least one run"):
        render_report([])


def test_command_says_what_it_wrote_and_how_large_it_is(runs, tmp_path):
    output = tmp_path / "new/report.html"
    result = CliRunner().invoke(app, ["report", str(runs / "second"), "--output", str(output), "--no-audio"])
    assert result.exit_code == 0, result.output
    assert f"Wrote {output} ({output.stat().st_size / 2**20:.1f} MiB)" in result.output
    assert "second lacks test: python train.py test" in result.output
    assert "The page holds the settings, second.yaml, to save." in result.output
    assert "--no-audio" in Elements(output.read_text(encoding="utf-8")).text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent"], "expected the folder of a run"),
        (["{run}", "--output", "{run}"], "Cannot write the page"),
        (["{run}", "--online"], "--wandb-project"),
        (["{run}", "--wandb-group", "g"], "--wandb-project"),
        (["{run}", "--output", "{new}", "--wandb-project", "p"], "Name one by --wandb-group"),
    ],
)
def test_errors_of_the_command_are_messages(runs, tmp_path, arguments, said):
    given = [one.format(run=runs / "second", new=tmp_path / "r.html") for one in arguments]
    result = CliRunner().invoke(app, ["report", *given])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def offline_records(path):
    """Yield the records of a W&B file: LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in {1, 4}:  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def test_summary_run_holds_tables_plot_and_audio_offline(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    found = read_runs([runs / "first", runs / "second"])
    folder = log_summary(found, "stemsim", group="pair", folder=tmp_path, worst=2)
    assert folder.parent == tmp_path / "wandb"
    records, deadline = [], time.monotonic() + 30
    while not any(record.HasField("exit") for record in records) and time.monotonic() < deadline:
        time.sleep(0.5)  # W&B's service writes the end of the file a moment after the run has finished
        records = list(offline_records(next(folder.glob("*.wandb"))))
    run = next(record.run for record in records if record.HasField("run"))
    assert (run.project, run.run_group, run.job_type) == ("stemsim", "pair", "summary")
    comparison = read(next(folder.rglob("comparison*.table.json")))
    rows = comparison_rows(found)
    assert [line[:3] for line in comparison["data"]] == [[r.run, r.model, r.percent["all"][0]] for r in rows]
    worst = read(next(folder.rglob("worst_triplets*.table.json")))
    assert [line[-2] for line in worst["data"]] == [one.preference for one in found[0].worst[:2]]
    sounds = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes()[:4] == b"RIFF"]
    distinct = {segment for one in found[0].worst[:2] for segment in (one.x, one.a, one.b)}
    assert len({path.read_bytes() for path in sounds}) == len(distinct)
    assert all(soundfile.info(path).channels == 1 for path in sounds)
    picture = next(folder.rglob("*.png"))
    assert picture.stat().st_size > 10_000
    said = {item.key or "/".join(item.nested_key) for record in records for item in record.summary.update}
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
    with pytest.raises(ConfigError, match="these have: one, other"):
        common_group(read_runs(folders))


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda path: path.stem)
def test_sweeps_fit_the_schema_of_wandb(sweep):
    schema = pytest.importorskip("sweeps.config", reason="W&B's schema is in the package `sweeps`: pip install sweeps")
    config = yaml.safe_load(sweep.read_text(encoding="utf-8"))
    assert schema.schema_violations_from_proposed_config(config) == []
    assert schema.schema_violations_from_proposed_config(config | {"method": "guess"})


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda path: path.stem)
def test_every_point_of_a_sweep_is_a_command_of_train(sweep, monkeypatch):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

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
        parser = parser or ParsedOnly(command).parser
        parsed = parser.parse_args(command)[command[0]]
        assert str(parsed.trainer.default_root_dir).endswith("abc123")
        assert parsed.trainer.logger.init_args.group == f"sweep-{sweep.stem}"
        for name, value in zip(grid, point, strict=True):
            seen = parsed[name]
            assert seen == value or seen.class_path == expected_class(value), name
    with pytest.raises(SystemExit):
        parser.parse_args([*command, "--model.no_such_setting=1"])


def expected_class(value):
    """Return the class that a value of a sweep names, by a file or by its own name."""
    path = ROOT / str(value)
    return yaml.safe_load(path.read_text(encoding="utf-8"))["class_path"] if path.is_file() else value
