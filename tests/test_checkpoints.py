"""The ready-made models against the paper's table, and model files: round trips and whatever can be wrong with them."""

import inspect
import json
import re
import shutil

import pytest
import torch
import yaml
from fakes import CountingEncoder, write_songs
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from typer.testing import CliRunner

import stemsim.encoders
import stemsim.fusion
import stemsim.separators
from stemsim.cli import app
from stemsim.embedding import StemEmbedder
from stemsim.encoders import Spectral
from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError, StemMismatchError
from stemsim.fusion import Fusion, LinearFusion, StemPairs
from stemsim.model import (
    ModelCard,
    Part,
    ReportedAgreement,
    StemSimilarity,
    available_models,
    load,
    load_fusion,
    read_model,
    write_model,
)
from stemsim.model.loading import _checkpoints
from stemsim.model.parts import _PACKAGES, _TABLE
from stemsim.pretrained import PRETRAINED
from stemsim.separators import Bands, MixOnly, Multitrack
from stemsim.stems import LAYOUTS, STEMS

# Table 4 of arXiv:2601.19109, as it stands there: bass, drums, guitar, piano, vocals, residuals, mix.
TABLE_4 = {
    "clap-4stem": (0.38, 0.37, None, None, 0.10, 1.42, 1.19),
    "clap-6stem": (0.11, 0.41, 0.43, 0.10, 0.21, 0.57, 1.92),
    "muq-4stem": (0.25, 0.78, None, None, 0.08, 0.86, 1.94),
    "muq-6stem": (0.32, 0.83, 0.61, 0.27, 0.33, 1.27, 1.64),
}
TABLE_4 = {name: dict(zip(STEMS, row, strict=True)) for name, row in TABLE_4.items()}
READY_MADE = {
    **{name: {stem: w for stem, w in row.items() if w is not None} for name, row in TABLE_4.items()},
    "clap-mix": {"mix": 1.0},
    "muq-mix": {"mix": 1.0},
}
# Tables 2 and 3, the 6-stem models.
REPORTED = {
    "clap-6stem": [(83.6, 3.5), (83.2, 3.3), (85.4, 3.4), (84.6, 3.4), (84.6, None)],
    "muq-6stem": [(90.1, 2.4), (90.4, 2.3), (87.3, 2.9), (87.4, 2.7), (86.8, None)],
    "clap-4stem": [(None, None), (84.6, None)],
    "muq-4stem": [(None, None), (86.8, None)],
    "clap-mix": [(84.6, None)],
    "muq-mix": [(86.8, None)],
}


def layout_of(name):
    return "mix" if name.endswith("mix") else "6-stem" if "6" in name else "4-stem"


def source_for(name):
    return MixOnly() if name.endswith("mix") else Multitrack(layout_of(name))


class OwnSeparator(Multitrack):
    """A source of stems that no card can name."""


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Mixes of three songs of 1 s. Not to be changed."""
    return write_songs(tmp_path_factory.mktemp("songs"), 3, 1.0)


@pytest.fixture
def saved(tmp_path):
    """Folder of a model of classes that a card can name."""
    embedder = StemEmbedder(Bands(crossover=150.0), Spectral(), progress=False, silence=-50.0)
    StemSimilarity(embedder, {"bass": 0.1, "drums": 1 / 3, "residuals": -2.0, "mix": 1e-7}).save(tmp_path / "model")
    return tmp_path / "model"


# ---------------------------------------------------------------- the ready-made models


def test_the_ready_made_models_are_those_of_the_paper_and_its_baselines():
    assert available_models() == sorted(READY_MADE)
    assert stemsim.available_models() == sorted(READY_MADE)


@pytest.mark.parametrize("name", READY_MADE)
def test_a_ready_made_model_has_weights_and_agreements_of_the_paper_and_no_more(name, tmp_path):
    card, fusion = read_model(_checkpoints() / name)
    assert (card.name, card.stems, card.silence) == (name, LAYOUTS[layout_of(name)], None)
    assert card.fusion == Part("fusion", "linear")
    assert dict(zip(card.stems, fusion.weight.tolist(), strict=True)) == READY_MADE[name]
    assert yaml.safe_load((_checkpoints() / name / "card.yaml").read_text())["weights"] == READY_MADE[name]
    assert [(entry.percent, entry.spread) for entry in card.agreement] == REPORTED[name]
    assert "2601.19109" in card.citation
    pretrained = [value for part in (card.encoder, card.separator) for value in part.options.values()]
    assert all(PRETRAINED[model].terms in card.license for model in pretrained)
    assert all(PRETRAINED[model].license_source in card.license for model in pretrained)
    assert ("Table 4 does not say" in card.fitted) == (not name.endswith("mix"))
    assert ("not available" in card.agreement[0].of) == ("4stem" in name)
    write_model(tmp_path, card, fusion)
    for file in ("card.yaml", "weights.safetensors"):
        assert (tmp_path / file).read_bytes() == (_checkpoints() / name / file).read_bytes()


@pytest.mark.parametrize("name", READY_MADE)
def test_a_ready_made_model_loads_with_parts_that_are_passed(name, songs):
    sim = load(name, encoder=CountingEncoder(), separator=source_for(name))
    assert sim.weights == READY_MADE[name]
    assert sim(songs[0], songs[0]) == pytest.approx(sum(READY_MADE[name].values()), abs=1e-5)  # silence is embedded
    assert sim.prefer(songs[0], songs[0], songs[1]) > 0.0


@pytest.mark.parametrize("name", READY_MADE)
def test_a_ready_made_model_makes_the_parts_that_its_card_names(name, songs, monkeypatch, caplog):
    made = {}

    class Encoder(CountingEncoder):
        def __init__(self, weights):
            super().__init__()
            made["encoder"] = weights

    class Separator(Multitrack):
        def __init__(self, model):
            super().__init__(layout_of(name))
            made["separator"] = model

    Encoder.__name__ = "MuQMuLan" if name.startswith("muq") else "LaionClap"
    Separator.__name__ = "Demucs"
    monkeypatch.setattr(stemsim.encoders, Encoder.__name__, Encoder, raising=False)
    monkeypatch.setattr(stemsim.separators, "Demucs", Separator, raising=False)
    sim = stemsim.load(name, batch_size=2)
    assert made.pop("encoder") == ("MuQ-MuLan-large" if name.startswith("muq") else "630k-audioset-best")
    demucs = {"mix": None, "4-stem": "htdemucs", "6-stem": "htdemucs_6s"}[layout_of(name)]
    assert made.get("separator") == demucs
    assert sim.embedder.batch_size == 2
    assert sim.embedder.silence is None
    assert sim(songs[0], songs).shape == (3,)
    assert not caplog.records


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, table in _TABLE.items() for name in table])
def test_what_a_card_may_name_exists(kind, name):
    class_name, options = _TABLE[kind][name]
    module = getattr(stemsim, f"{kind}s" if kind != "fusion" else kind)
    assert module.__name__ == _PACKAGES[kind]
    assert set(options) <= set(inspect.signature(getattr(module, class_name)).parameters)


# ---------------------------------------------------------------- load


@pytest.mark.parametrize(
    ("typed", "first"), [("muq6stem", "muq-6stem"), ("clap4", "clap-4stem"), ("MUQ-mix", "muq-mix")]
)
def test_an_unknown_name_is_answered_with_the_closest_ones(typed, first):
    with pytest.raises(ConfigError, match=f"No ready-made model '{typed}'.* one of {first}, ") as error:
        load(typed)
    assert all(name in str(error.value) for name in READY_MADE)


@pytest.mark.parametrize("name", ["./nowhere", "somewhere/else"])
def test_a_missing_folder_is_an_error(name):
    with pytest.raises(DataNotFoundError, match="No model at"):
        load(name)


def test_a_separator_must_have_the_stems_of_the_card():
    with pytest.raises(StemMismatchError, match=r"Bands|bands") as error:
        load("muq-4stem", separator=Bands(), encoder=CountingEncoder())
    assert error.value.expected == LAYOUTS["4-stem"]
    assert error.value.seen == Bands.stems
    swapped = ["drums", "bass", "vocals", "residuals", "mix"]
    with pytest.raises(StemMismatchError, match="The order counts"):
        load("muq-4stem", separator=Multitrack(swapped), encoder=CountingEncoder())


def test_another_encoder_and_another_version_of_it_are_warned_about(saved, caplog):
    load(saved)
    load(saved, encoder=Spectral())
    assert not caplog.records
    sim = load(saved, encoder=CountingEncoder())
    assert "were fitted with the encoder spectral" in caplog.text
    assert CountingEncoder().identity in caplog.text
    assert sim.card.encoder == Part("encoder", identity=CountingEncoder().identity)
    caplog.clear()
    text = (saved / "card.yaml").read_text().replace(Spectral().identity, "spectral-0")
    (saved / "card.yaml").write_text(text)
    load(saved)
    assert "were fitted with the encoder" in caplog.text


def test_embeddings_are_kept_in_the_store(songs, tmp_path):
    for expected in (3, 0):
        encoder = CountingEncoder()
        sim = load("muq-mix", encoder=encoder, store=tmp_path / "store")
        sim(songs[0], songs)
        assert encoder.clips == expected


# ---------------------------------------------------------------- save


def test_a_saved_model_loads_as_it_was(saved):
    sim = load(str(saved))
    embedder = StemEmbedder(Bands(crossover=150.0), Spectral(), progress=False, silence=-50.0)
    original = StemSimilarity(embedder, {"bass": 0.1, "drums": 1 / 3, "residuals": -2.0, "mix": 1e-7})
    assert sim.weights == original.weights  # to the last bit: the tensor counts, not the digits of the card
    assert sim.card == original.card
    assert sim.embedder.source.crossover == 150.0
    assert sim.embedder.silence == -50.0
    tone = torch.sin(torch.arange(44_100) / 20), 44_100
    noise = torch.rand(44_100, generator=torch.Generator().manual_seed(0)) - 0.5, 44_100
    assert sim(tone, noise) == original(tone, noise)


def test_a_model_of_ones_own_parts_asks_for_them(songs, tmp_path, caplog):
    embedder = StemEmbedder(OwnSeparator("4-stem"), CountingEncoder(), progress=False)
    sim = StemSimilarity(embedder, dict.fromkeys(LAYOUTS["4-stem"], 0.5))
    sim.save(tmp_path)
    with pytest.raises(ConfigError, match=r"load\(..., separator=...\)"):
        load(tmp_path)
    with pytest.raises(ConfigError, match=r"load\(..., encoder=...\)"):
        load(tmp_path, separator=OwnSeparator("4-stem"))
    again = load(tmp_path, separator=OwnSeparator("4-stem"), encoder=CountingEncoder())
    assert again(songs[0], songs[1]) == sim(songs[0], songs[1])
    assert not caplog.records


def test_saving_replaces_a_model_and_leaves_other_files(saved):
    (saved / "notes.txt").write_text("mine")
    StemSimilarity(StemEmbedder(MixOnly(), Spectral(), progress=False), {"mix": 3.0}).save(saved)
    assert load(saved).weights == {"mix": 3.0}
    assert (saved / "notes.txt").read_text() == "mine"
    assert len(list(saved.iterdir())) == 3


def test_a_folder_that_cannot_be_written_is_an_error(saved):
    with pytest.raises(CheckpointError, match="cannot be written"):
        load(saved).save(saved / "card.yaml")


def test_a_fusion_that_is_not_finite_or_of_other_stems_is_not_written(saved, tmp_path):
    card, fusion = read_model(saved)
    with pytest.raises(StemMismatchError, match="the fusion has"):
        write_model(tmp_path / "new", card, LinearFusion(("mix",)))
    fusion.weight[1] = torch.nan
    with pytest.raises(CheckpointError, match="not finite: weight"):
        write_model(tmp_path / "new", card, fusion)
    assert not (tmp_path / "new").exists()


def test_true_stems_are_a_part_that_a_card_names_whatever_their_layout(tmp_path):
    for stems, option in (("4-stem", "4-stem"), (["drums", "mix"], ["drums", "mix"])):
        source = Multitrack(stems)
        embedder = StemEmbedder(source, Spectral(), progress=False)
        StemSimilarity(embedder, dict.fromkeys(source.stems, 1.0)).save(tmp_path)
        sim = load(tmp_path)
        assert sim.card.separator == Part("separator", "multitrack", {"stems": option}, source.identity)
        assert sim.embedder.source.identity == source.identity


finite = st.floats(-1e6, 1e6)


@given(
    weights=st.lists(finite, min_size=5, max_size=5),
    silence=st.none() | st.floats(-120, 0),
    text=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=200),
)
@settings(max_examples=40, deadline=None)
def test_any_card_survives_its_file(tmp_path_factory, weights, silence, text):
    folder = tmp_path_factory.mktemp("card")
    card = ModelCard(
        name="any",
        stems=LAYOUTS["4-stem"],
        encoder=Part("encoder", "laion-clap", {"weights": text}),
        separator=Part("separator", identity="my own"),
        silence=silence,
        summary=text,
        agreement=(ReportedAgreement(text, 90.0, 1.5), ReportedAgreement("b")),
    )
    fusion = LinearFusion(card.stems)
    fusion.start_from(torch.tensor(weights, dtype=torch.float64))
    write_model(folder, card, fusion)
    seen, again = read_model(folder)
    assert seen == card
    assert again.weight.tolist() == weights


def test_a_card_of_the_first_version_is_read(saved):
    text = (saved / "card.yaml").read_text()
    (saved / "card.yaml").write_text(text.replace("license: ''", "licence: mine"))
    assert read_model(saved)[0].license == "mine"


# ---------------------------------------------------------------- fusions


class CubicFusion(Fusion):
    """A fusion of one's own, without stem weights."""

    def __init__(self, stems, power=3.0):
        super().__init__(stems)
        self.scale = torch.nn.Parameter(torch.full((len(stems),), power, dtype=torch.float64))

    def fuse(self, pairs):
        return self.scale * pairs.cosines**3


FUSIONS = {
    "linear": LinearFusion,
    "spline": lambda stems: stemsim.fusion.SplineFusion(stems, pieces=4, smoothing=0.5),
    "monotone": lambda stems: stemsim.fusion.MonotoneFusion(stems, units_per_stem=3),
    "attention": lambda stems: stemsim.fusion.AttentionFusion(stems, smoothing=0.1),
    "low-rank": lambda stems: stemsim.fusion.LowRankFusion(stems, rank=2, components=5),
    "own": CubicFusion,
}


def fitted(name, sim, songs):
    """Return a fusion that has seen the songs and has left its start."""
    fusion = FUSIONS[name](sim.stems)
    generator = torch.Generator().manual_seed(1)
    embedded = sim.embed(songs)
    fusion.observe(StemPairs.of(embedded, embedded.take(torch.tensor([1, 2, 0]))))
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return fusion


def make_sim(songs, name):
    embedder = StemEmbedder(Multitrack("4-stem"), Spectral(), progress=False)
    sim = StemSimilarity(embedder, dict.fromkeys(embedder.stems, 1.0))
    return StemSimilarity(embedder, fitted(name, sim, songs))


@pytest.mark.parametrize("name", FUSIONS)
def test_a_model_of_any_fusion_is_saved_loaded_and_used(name, songs, tmp_path, caplog):
    sim = make_sim(songs, name)
    sim.save(tmp_path)
    given_class = {"fusion": CubicFusion} if name == "own" else {}
    again = load(tmp_path, **given_class)
    assert again.card == sim.card
    assert again.card.fusion.name == (None if name == "own" else name)
    assert torch.equal(again(songs[0], songs), sim(songs[0], songs))
    assert torch.equal(again.prefer(songs, songs[1], songs[2]), sim.prefer(songs, songs[1], songs[2]))
    assert torch.equal(again.prefer(songs, songs[2], songs[1]), -sim.prefer(songs, songs[1], songs[2]))
    for explanation in again.explain(songs[0], songs):
        assert sum(explanation.contributions.values()) == pytest.approx(explanation.similarity, abs=1e-9)
        assert all(explanation.contributions[stem] == 0.0 for stem in explanation.silent)
        assert f"{explanation.similarity:.3f}  similarity; higher is closer" in str(explanation)
    only = load_fusion(tmp_path, **given_class)
    assert all(torch.equal(one, other) for one, other in zip(only.parameters(), sim.fusion.parameters(), strict=True))
    again.save(tmp_path / "deep" / "copy")
    assert {path.name for path in (tmp_path / "deep" / "copy").iterdir()} == {"card.yaml", "weights.safetensors"}
    for file in ("card.yaml", "weights.safetensors"):
        assert (tmp_path / "deep" / "copy" / file).read_bytes() == (tmp_path / file).read_bytes()
    assert not caplog.records


def test_a_fusion_is_loaded_without_encoder_and_separator():
    assert dict(zip(STEMS, load_fusion("muq-6stem").weight.tolist(), strict=True)) == READY_MADE["muq-6stem"]


def test_a_fusion_of_ones_own_is_loaded_only_if_it_is_passed(songs, tmp_path, caplog):
    sim = make_sim(songs, "own")
    sim.save(tmp_path)
    assert sim.card.fusion == Part("fusion", identity="test_checkpoints.CubicFusion")
    with pytest.raises(ConfigError, match=r"fusion 'test_checkpoints.CubicFusion'.*load\(..., fusion=...\)"):
        load(tmp_path)
    instance = CubicFusion(sim.stems, power=9.0)
    again = load(tmp_path, fusion=instance)
    assert torch.equal(again(songs[0], songs), sim(songs[0], songs))
    assert instance.scale.tolist() == [9.0] * 5, "what is passed is left as it is"
    with pytest.raises(ConfigError, match="CubicFusion has no stem weights"):
        _ = sim.weights
    assert sim.explain(songs[0], songs[1]).weights is None
    with pytest.raises(StemMismatchError, match="the fusion has"):
        load(tmp_path, fusion=CubicFusion(("mix",)))
    with pytest.raises(CheckpointError, match="does not fit LinearFusion"):
        load(tmp_path, fusion=LinearFusion)

    class Renamed(CubicFusion):
        pass

    assert not caplog.records or "is loaded as" in caplog.text
    caplog.clear()
    load(tmp_path, fusion=Renamed)
    assert "was fitted as test_checkpoints.CubicFusion, and is loaded as" in caplog.text


def test_a_model_of_any_fusion_is_compared_with_on_the_command_line(songs, tmp_path):
    def compare(*arguments, code=0):
        done = CliRunner().invoke(app, ["compare", *map(str, songs[:2]), "--model", str(tmp_path), *arguments])
        assert done.exit_code == code, done.output
        return done.output

    for name in ("spline", "low-rank"):
        sim = make_sim(songs, name)
        sim.save(tmp_path)
        told = json.loads(compare("--json"))
        assert told["similarity"] == sim(*songs[:2])
        assert sum(told["contributions"].values()) == pytest.approx(told["similarity"], abs=1e-9)
        assert told["fusion"] == str(sim.card.fusion)
        assert f"fusion {name}(" in compare("--plot", str(tmp_path / "x.png"))
    own = make_sim(songs, "own")
    own.save(tmp_path)
    assert "which is not part of stemsim" in compare(code=2)
    assert "fusion test_checkpoints.CubicFusion" in compare("--fusion", "test_checkpoints.CubicFusion")
    assert json.loads(compare("--fusion", "test_checkpoints.CubicFusion", "--json"))["weights"] is None
    assert "cannot be imported" in compare("--fusion", "no_module.Fusion", code=2)
    assert "not a subclass of stemsim.fusion.Fusion" in compare("--fusion", "pathlib.Path", code=2)
    alone = CliRunner().invoke(app, ["compare", *map(str, songs[:2]), "--fusion", "test_checkpoints.CubicFusion"])
    assert "--fusion is for a --model" in alone.output
    weighted = json.loads(compare("--fusion", "test_checkpoints.CubicFusion", "--weights", "mix=1", "--json"))
    assert weighted["similarity"] == pytest.approx(weighted["cosines"]["mix"])


def test_a_nonlinear_card_says_so_and_names_its_options(songs, tmp_path):
    make_sim(songs, "spline").save(tmp_path)
    text = (tmp_path / "card.yaml").read_text()
    assert "a fusion of the similarities" in text.splitlines()[0]
    card = yaml.safe_load(text)
    assert card["fusion"] == {"name": "spline", "options": {"pieces": 4, "smoothing": 0.5}}
    assert "weights" in card
    make_sim(songs, "own").save(tmp_path)
    card = yaml.safe_load((tmp_path / "card.yaml").read_text())
    assert card["stems"] == list(LAYOUTS["4-stem"])
    assert "weights" not in card


def test_a_nonnegative_linear_fusion_is_a_weighted_sum_once_it_is_fitted(saved, tmp_path):
    card, _ = read_model(saved)
    fusion = LinearFusion(card.stems, nonnegative=True)
    fusion.start_from(torch.tensor([0.0, 0.3, 1 / 3, 2.0], dtype=torch.float64))
    write_model(tmp_path, card, fusion)
    assert torch.equal(load_fusion(tmp_path).weight, fusion.weight)


def test_a_fusion_is_copied_and_frozen(songs):
    sim = load("muq-mix", encoder=CountingEncoder())
    fusion = LinearFusion(("mix",))
    mine = StemSimilarity(sim.embedder, fusion)
    with torch.no_grad():
        fusion.weight.fill_(3.0)
    assert mine.weights == {"mix": 0.0}
    assert fusion.weight.requires_grad
    assert not mine.fusion.weight.requires_grad


# ---------------------------------------------------------------- what can be wrong with a model


DROPPED = object()


def edit(folder, **changes):
    card = yaml.safe_load((folder / "card.yaml").read_text())
    card = {key: value for key, value in {**card, **changes}.items() if value is not DROPPED}
    (folder / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False))


def tensors(folder, stems=Bands.stems, **state):
    save_file(state, folder / "weights.safetensors", metadata={"stems": json.dumps(stems)})


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


WEIGHT = torch.tensor([0.1, 1 / 3, -2.0, 1e-7], dtype=torch.float64)
STEM_WEIGHTS = dict(zip(Bands.stems, WEIGHT.tolist(), strict=True))
DAMAGE = {
    "no folder": (shutil.rmtree, "No model at"),
    "no card": (lambda f: (f / "card.yaml").unlink(), "card.yaml is missing"),
    "no weights": (lambda f: (f / "weights.safetensors").unlink(), "weights.safetensors is missing"),
    "truncated weights": (lambda f: truncate(f / "weights.safetensors"), "damaged"),
    "broken YAML": (lambda f: (f / "card.yaml").write_text("name: [a"), "not the card of a model"),
    "no YAML": (lambda f: (f / "card.yaml").write_bytes(b"\xff\xfe\x00"), "not the card of a model"),
    "empty card": (lambda f: (f / "card.yaml").write_text(""), "got None"),
    "card is a folder": (lambda f: ((f / "card.yaml").unlink(), (f / "card.yaml").mkdir()), "not the card of a model"),
    "YAML tag that makes an object": (
        lambda f: (f / "card.yaml").write_text("!!python/object/apply:os.system [exit]"),
        "could not determine a constructor",
    ),
    "unknown key": (lambda f: edit(f, colour="red"), "colour"),
    "missing key": (lambda f: edit(f, silence=DROPPED), "silence: Field required"),
    "name is empty": (lambda f: edit(f, name=" "), "name: String should match"),
    "weight NaN in the card": (
        lambda f: edit(f, weights={**STEM_WEIGHTS, "mix": float("nan")}),
        "mix: Input should be a finite number, got nan",
    ),
    "weight is a text": (lambda f: edit(f, weights={**STEM_WEIGHTS, "mix": "1"}), "valid number, got '1'"),
    "unknown stem": (lambda f: edit(f, weights={**STEM_WEIGHTS, "choir": 1.0}), "choir"),
    "agreement above 100": (
        lambda f: edit(f, agreement=[{"of": "x", "percent": 101}]),
        "agreement.0.percent: .* 100, got 101",
    ),
    "another weight in the card": (
        lambda f: edit(f, weights={**STEM_WEIGHTS, "mix": 0.5}),
        "does not hold the weights of the card",
    ),
    "complex numbers": (lambda f: tensors(f, weight=WEIGHT.to(torch.complex64)), "complex in place of real"),
    "NaN in the tensor": (lambda f: tensors(f, weight=WEIGHT * torch.nan), "not finite"),
    "too few in the tensor": (
        lambda f: tensors(f, weight=WEIGHT[:3].clone()),
        "another shape .*\\(3,\\), expected \\(4,\\)",
    ),
    "another tensor": (lambda f: tensors(f, bias=WEIGHT), "missing \\['weight'\\], 1 left over \\['bias'\\]"),
    "no stems with the tensor": (
        lambda f: save_file({"weight": WEIGHT}, f / "weights.safetensors"),
        "for which stems it is",
    ),
    "another order in the tensor": (
        lambda f: tensors(f, stems=Bands.stems[::-1], weight=WEIGHT),
        r"has \(mix, residuals, drums, bass\), expected \(bass, drums, residuals, mix\)",
    ),
    "another order in the card": (
        lambda f: edit(f, weights=dict(reversed(STEM_WEIGHTS.items()))),
        r"has \(bass, drums, residuals, mix\), expected \(mix, residuals, drums, bass\)",
    ),
    "a class path": (
        lambda f: edit(f, encoder={"name": "os.system", "options": {"command": "exit"}}),
        "Unknown encoder 'os.system'.* No card or option can name",
    ),
    "a class path of a fusion": (
        lambda f: edit(f, fusion={"name": "test_checkpoints.CubicFusion"}),
        "Unknown fusion .* No card or option can name",
    ),
    "a fusion of another kind": (
        lambda f: edit(f, fusion={"name": "spline"}),
        "does not fit SplineFusion: 2 tensors missing",
    ),
    "an impossible option of a fusion": (
        lambda f: edit(f, fusion={"name": "spline", "options": {"pieces": 10**8}}),
        "2 to 1024 pieces",
    ),
    "an option of another type": (
        lambda f: edit(f, fusion={"name": "spline", "options": {"pieces": "many"}}),
        "cannot be made",
    ),
    "stems beside weights": (lambda f: edit(f, stems=list(Bands.stems)), "A card has `weights`"),
    "neither stems nor weights": (lambda f: edit(f, weights=DROPPED), "A card has `weights`"),
    "code in the card": (
        lambda f: (f / "card.yaml").write_text("!!python/object/apply:os.system [exit]", encoding="utf-8"),
        "not the card of a model",
    ),
    "an encoder as separator": (lambda f: edit(f, separator={"name": "spectral"}), "bands, mix"),
    "an unknown option": (
        lambda f: edit(f, separator={"name": "bands", "options": {"trust_code": True}}),
        "may set these options .* crossover",
    ),
    "an option that is a list": (
        lambda f: edit(f, separator={"name": "bands", "options": {"crossover": [1]}}),
        "to texts, finite numbers, booleans, lists of texts or null",
    ),
    "a part without name and identity": (lambda f: edit(f, encoder={}), "its `identity` alone"),
}
KINDS = {
    "no folder": DataNotFoundError,
    "no card": DataNotFoundError,
    "no weights": DataNotFoundError,
    "another order in the tensor": StemMismatchError,
    "another order in the card": StemMismatchError,
    "an impossible option of a fusion": ConfigError,
    "an option of another type": ConfigError,
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_models_are_errors_of_ours(saved, case):
    damage, message = DAMAGE[case]
    kind = KINDS.get(case, CheckpointError)
    damage(saved)
    with pytest.raises(kind, match=message) as error:
        load(saved)
    assert str(saved) in str(error.value) or kind is ConfigError


@pytest.mark.parametrize("value", [-5.0, "low"])
def test_an_impossible_option_is_an_error(saved, value):
    edit(saved, separator={"name": "bands", "options": {"crossover": value}})
    with pytest.raises(ConfigError):
        load(saved)


@pytest.mark.parametrize("name", ["/etc/hostname", "../secret.pt", "link.pt", ".."])
@pytest.mark.parametrize("part", [("encoder", "laion-clap", "weights"), ("separator", "demucs", "model")])
def test_a_card_names_no_file_but_its_own_and_the_pretrained_ones(saved, name, part, monkeypatch):
    (saved.parent / "secret.pt").write_bytes(b"mine")
    (saved / "link.pt").symlink_to("../secret.pt")
    (saved / "own.pt").write_bytes(b"no checkpoint")
    kind, named, option = part
    edit(saved, **{kind: {"name": named, "options": {option: name}}})
    with pytest.raises(ConfigError, match=r"expected a known name, or a file in .* pass the"):
        load(saved)
    edit(saved, **{kind: {"name": named, "options": {option: "own.pt"}}})
    monkeypatch.chdir(saved.parent)
    with pytest.raises((CheckpointError, DataNotFoundError), match=re.escape(str(saved / "own.pt"))):
        load(saved)
    monkeypatch.setenv("STEMSIM_PRETRAINED", str(saved.parent))
    edit(saved, **{kind: {"name": named, "options": {option: str(saved.parent / "secret.pt")}}})
    with pytest.raises((CheckpointError, DataNotFoundError), match=re.escape(str(saved.parent / "secret.pt"))):
        load(saved)


def test_a_card_of_other_stems_does_not_fit_the_embedder(saved):
    card, _ = read_model(saved)
    with pytest.raises(StemMismatchError, match="the card of 'custom'"):
        StemSimilarity(StemEmbedder(MixOnly(), Spectral(), progress=False), {"mix": 1.0}, card=card)
