"""Random weights in the layouts of the real checkpoints, written by upstream's own classes where they can write."""

import json
from fractions import Fraction
from unittest import mock

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from stemsim.pretrained.torchvision_repair import repair_torchvision

FOUR = ["drums", "bass", "other", "vocals"]
SIX = [*FOUR, "guitar", "piano"]
REAL_RATE, LOW_RATE = 44_100, 11_025  # Hz; most of the time that a small Demucs takes goes with its rate
SMALL_DEMUCS = {"channels": 8, "t_layers": 1, "t_heads": 2, "depth": 4, "dconv_mode": 3, "bottom_channels": 16}
REAL_DEMUCS = {
    4: {"channels": 48, "depth": 4, "dconv_mode": 3, "bottom_channels": 512},
    6: {"channels": 48, "depth": 4, "dconv_mode": 3, "bottom_channels": 0},
}


def write_htdemucs(
    folder,
    name="htdemucs",
    sources=FOUR,
    *,
    seed=0,
    suffix=".th",
    signature="0a1b2c3d",
    rate=REAL_RATE,
    **settings,
):
    """Write an HTDemucs of random weights as `NAME.yaml` and the file that it names; return the folder."""
    from demucs.htdemucs import HTDemucs

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    kwargs = {**(settings or SMALL_DEMUCS), "segment": Fraction(39, 5), "samplerate": rate}
    model = HTDemucs(sources, **kwargs)
    for parameter in model.parameters():  # LayerScale would hide most of the model
        if (parameter.detach() < 1e-3).all() and parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.1, 0.3)
    state = {key: tensor.half() for key, tensor in model.state_dict().items()}  # as the published ones
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"models": [signature]}), encoding="utf-8")
    package = {"klass": HTDemucs, "args": (sources,), "kwargs": kwargs, "state": state, "training_args": {"a": [1]}}
    torch.save(package, folder / f"{signature}.th")
    if suffix == ".safetensors":
        from stemsim.pretrained.loading import read_checkpoint, write_checkpoint

        write_checkpoint(folder / f"{signature}.safetensors", read_checkpoint(folder / f"{signature}.th"))
        (folder / f"{signature}.th").unlink()
    return folder


def byte_tokenizer():
    """Return a tokenizer of single bytes with RoBERTa's special tokens."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(special + alphabet)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer, special + alphabet


def write_roberta(folder, *, kind="roberta", hidden=768, layers=1):
    """Write tokenizer and configuration of a small RoBERTa or XLM-R, and its random weights; return the folder."""
    repair_torchvision()
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, vocabulary = byte_tokenizer()
    names = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=512, cls_token="<s>", sep_token="</s>", **names
    ).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    config_class, model_class = {
        "roberta": (transformers.RobertaConfig, transformers.RobertaModel),
        "xlm-roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaModel),
    }[kind]
    config = config_class(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=514,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    torch.manual_seed(1)
    model_class(config).save_pretrained(folder)
    return folder


def upstream_clap(roberta, architecture="HTSAT-tiny", *, seed=0):
    """Return upstream's `CLAP_Module` with random weights; `roberta` stands in for what it would download."""
    repair_torchvision()
    import transformers

    def local(kind):
        original = getattr(transformers, kind).from_pretrained
        return mock.patch.object(
            getattr(transformers, kind), "from_pretrained", lambda _name, *a, **k: original(roberta, *a, **k)
        )

    torch.manual_seed(seed)
    # Bart's tokenizer is RoBERTa's class in transformers 5.
    none = mock.patch.object(transformers.BertTokenizer, "from_pretrained", return_value=None)
    with local("RobertaTokenizer"), local("RobertaModel"), none:
        import laion_clap

        module = laion_clap.CLAP_Module(enable_fusion=False, device="cpu", amodel=architecture)
    randomise(module.model.audio_branch)
    return module.eval()


def randomise(module):
    """Give running means and variances of batch normalisation values that matter."""
    for child in module.modules():
        if isinstance(child, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.normal_(child.running_mean, -20.0, 5.0)
            torch.nn.init.uniform_(child.running_var, 50.0, 200.0)


def write_clap(path, module):
    """Save upstream's module as its training did: epoch, numpy scalars, `module.` before every name."""
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"module.{name}": tensor for name, tensor in module.model.state_dict().items()}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(514).unsqueeze(0)
    torch.save({"epoch": 15, "name": "random", "state_dict": state, "best": np.float64(0.9014)}, path)
    return path


MUQ = {
    "label_rate": 25,
    "num_codebooks": 1,
    "codebook_dim": 16,
    "features": ["melspec_2048"],
    "hop_length": 240,
    "n_mels": 128,
    "mask_hop": 0.4,
    "mask_prob": 0.6,
    "is_flash": False,
    "stat": {"melspec_2048_mean": 6.768444971712967, "melspec_2048_std": 18.417922652295623},
}
TRANSFORMER = {"attn_dropout": 0.0, "ff_dropout": 0.0, "ff_mult": 4}
SMALL_MUQ = {"codebook_size": 8, "conv_dim": 8, "encoder_dim": 32, "encoder_depth": 2}
REAL_MUQ = {"codebook_size": 4096, "conv_dim": 512, "encoder_dim": 1024, "encoder_depth": 12}


def muq_config(sizes):
    """Return the configuration of a MuQ, as its `config.json` has it."""
    from transformers import Wav2Vec2ConformerConfig

    small = sizes["encoder_dim"] < 1024
    conformer = Wav2Vec2ConformerConfig(
        num_attention_heads=4 if small else 16,
        intermediate_size=64 if small else 4096,
        position_embeddings_type="rotary",
        hidden_size=sizes["encoder_dim"],
    )
    return {**MUQ, **sizes, "w2v2_config": json.loads(conformer.to_json_string(use_diff=False))}


def upstream_muq_mulan(root, sizes=SMALL_MUQ, *, depth=0, seed=0):
    """Write `MuQ-MuLan`, `MuQ` and `xlm-roberta-base` below `root`, as their repositories lie on the hub; return it."""
    repair_torchvision()
    from muq import MuQ, MuQMuLan

    torch.manual_seed(seed)
    muq = MuQ(muq_config(sizes))
    randomise_muq(muq)
    muq.save_pretrained(root / "MuQ-large-msd-iter")
    write_roberta(root / "xlm-roberta-base", kind="xlm-roberta", hidden=64)
    config = {
        "mulan": {
            "sr": 24000,
            "clip_secs": 10,
            "dim_latent": 512,
            "decoupled_contrastive_learning": True,
            "hierarchical_contrastive_loss": False,
            "hierarchical_contrastive_loss_layers": None,
            "sigmoid_contrastive_loss": False,
            "rank_contrast": True,
        },
        "audio_model": {
            "name": str(root / "MuQ-large-msd-iter"),
            "model_dim": sizes["encoder_dim"],
            "use_layer_idx": -1,
        },
        "text_model": {"name": str(root / "xlm-roberta-base"), "model_dim": None, "use_layer_idx": -1},
        "audio_transformer": {**TRANSFORMER, "dim": 768, "tf_depth": depth, "heads": 8, "dim_head": 64},
        "text_transformer": {**TRANSFORMER, "dim": 64, "tf_depth": 2, "heads": 2, "dim_head": 8, "max_seq_len": 1024},
    }
    model = MuQMuLan(config).eval()
    model.save_pretrained(root / "MuQ-MuLan-large")
    (root / "MuQ-MuLan-large" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return model


def randomise_muq(muq):
    """Make the random conformer answer to its input, as trained ones do."""
    randomise(muq)
    for child in muq.modules():
        if isinstance(child, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.normal_(child.running_mean, 0.0, 0.1)
            torch.nn.init.uniform_(child.running_var, 0.5, 2.0)


def write_pretrained(root, *, clap=False, rates=(LOW_RATE, LOW_RATE)):
    """Write small random models where `stemsim models download` would put the real ones; return the folder.

    Args:
        root: Folder to write to.
        clap: Write LAION-CLAP too.
        rates: Of htdemucs and htdemucs_6s, in Hz.
    """
    four, six = ({"suffix": ".safetensors", "rate": rate} for rate in rates)
    write_htdemucs(root / "htdemucs", "htdemucs", FOUR, signature="955717e8", **four)
    write_htdemucs(root / "htdemucs_6s", "htdemucs_6s", SIX, seed=1, signature="5c90dfd2", **six)
    upstream_muq_mulan(root)
    if clap:
        roberta = write_roberta(root / "roberta-base")
        write_clap(root / "630k-audioset-best" / "630k-audioset-best.pt", upstream_clap(roberta))
    return root
