"""Command line of `train.py`: Lightning's, with cross-validation and readable errors."""

import logging
import os
import shlex
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from rich.console import Console
from rich.text import Text

from stemsim.errors import CheckpointError, ConfigError, StemsimError, system_message
from stemsim.replacing import replacing
from stemsim.training.callbacks import CHECKPOINTS, ClosedFormCheck, LastCheckpoint, ResultsReport, StartAtRidge
from stemsim.training.data import TripletDataModule
from stemsim.training.module import StemSimilarityModule
from stemsim.training.trainer import StemTrainer

__all__ = ["StemsimCLI", "main", "set_up_logging"]

_JOBS: Final = {
    "fit": "Fit the model to the train part of the triplets.",
    "validate": "Measure agreement with the listeners on the validation part.",
    "test": "Measure agreement with the listeners on the test part.",
    "predict": "Predict all triplets, with the contribution of each stem.",
    "crossval": "Cross-validate least squares and ridge on random splits, beside human ceiling and baselines.",
}


class _SavedSettings(SaveConfigCallback):
    """Keeps the settings of a job in `config.yaml`, which takes the place of an older one once it is whole."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file, once."""
        partial = Path(trainer.log_dir or ".") / self.config_filename
        if not self.already_saved:
            super().setup(trainer, pl_module, stage)
            if trainer.is_global_zero:
                partial.replace(partial.with_name("config.yaml"))


class StemsimCLI(LightningCLI):
    """Jobs `fit`, `validate`, `test`, `predict` and `crossval` on one configuration."""

    def __init__(self, args: ArgsType = None, *, run: bool = True) -> None:
        self._checkpoint: dict[str, Any] | None = None
        self.arguments: list[str] | None = (
            sys.argv[1:] if args is None else list(args) if isinstance(args, list | tuple) else None
        )
        # Interpolations that refer to keys of the whole file also work where the file is one part of a larger parser.
        set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
        super().__init__(
            StemSimilarityModule,
            TripletDataModule,
            trainer_class=StemTrainer,
            trainer_defaults={
                "callbacks": [StartAtRidge()],
                "max_epochs": 10,
                "log_every_n_steps": 1,
                "accelerator": "cpu",
                "enable_model_summary": False,
                "enable_progress_bar": False,  # a full-batch fit is over before a bar is drawn
            },
            save_config_callback=_SavedSettings,
            save_config_kwargs={"overwrite": True, "config_filename": ".config.yaml"},
            seed_everything_default=0,
            parser_kwargs={"parser_mode": "omegaconf+", "description": __doc__},
            auto_configure_optimizers=False,
            # Settings come from the configuration alone: a checkpoint must fit them, and never overrides them.
            load_from_checkpoint_support=False,
            args=args,
            run=run,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the jobs, with the arguments that the command line fills in itself."""
        filled_in = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}
        return dict.fromkeys(_JOBS, filled_in)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the callbacks, and give the model the stem layout of the separator."""
        for callback, key in (
            (LastCheckpoint, "checkpoint"),
            (ClosedFormCheck, "closed_form"),
            (ResultsReport, "results"),
        ):
            parser.add_lightning_class_args(callback, key)
        parser.link_arguments("data.stems", "model.stems", compute_fn=list, apply_on="instantiate")

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Build the parser of the job that is asked for; the others are only listed."""
        del kwargs
        self._subcommand_parsers: dict[str, LightningArgumentParser] = {}
        listed, first = parser.add_subcommands(), next(iter(self.arguments or [""]), "")
        for job, description in _JOBS.items():
            if first in {*_JOBS, "-h", "--help"} - {job}:
                one = self.init_parser(description=description)
            else:
                one = self._prepare_subcommand_parser(StemTrainer, job, description=description)
            self._subcommand_parsers[job] = one
            listed.add_subcommand(job, one, help=description)

    def instantiate_classes(self) -> None:
        """Build model and data; errors of stemsim are raised as they are, not as errors of the parser."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:  # jsonargparse's own, around any error in an optional class
            if isinstance(error.__cause__, StemsimError):
                raise error.__cause__ from None
            raise

    def after_instantiate_classes(self) -> None:
        """Compare the checkpoint with the model before hours of embedding, not after."""
        if self._checkpoint is not None:
            self.model.check_stems(self._checkpoint)

    def _parse_ckpt_path(self) -> None:
        """Find and check the checkpoint before anything else; it never overrides the configuration."""
        settings = self.config[self.config.subcommand] if self.config.get("subcommand") else {}
        path = settings.get("ckpt_path")
        if path in {"last", "best"}:
            path = settings["ckpt_path"] = str(_checkpoint_of_run(path, settings["trainer.default_root_dir"] or "."))
        if path:
            self._checkpoint = _read_checkpoint(path)
        elif (job := self.config.get("subcommand")) in {"validate", "test", "predict"}:
            raise CheckpointError(
                f"`train.py {job}` needs weights that were fitted to votes. Give --ckpt_path last for "
                "those of `train.py fit` in the same folder, or the path of a checkpoint."
            )

    def before_instantiate_classes(self) -> None:
        """Tell W&B the type of the job, unless the user has set it."""
        if self.subcommand is not None and os.environ.get("WANDB_JOB_TYPE") in {None, *self.subcommands()}:
            os.environ["WANDB_JOB_TYPE"] = self.subcommand

    def after_crossval(self) -> None:
        """Keep the settings beside the results, as Lightning does for its own jobs."""
        path = Path(self.trainer.default_root_dir) / "crossval.yaml"
        with replacing(path) as partial:
            self._parser("crossval").save(self.config["crossval"], partial, overwrite=True, multifile=False)

    def after_fit(self) -> None:
        """Print the next command."""
        if self.arguments is None:
            return
        given = [argument for argument in self.arguments[1:] if not argument.startswith("--ckpt_path=")]
        if "--ckpt_path" in given:  # this fit was resumed from another one
            del given[(at := given.index("--ckpt_path")) : at + 2]
        command = shlex.join(["python", "train.py", "test", *given, "--ckpt_path", "last"])
        Console().print(f"Next: {command}", soft_wrap=True, highlight=False)


def _checkpoint_of_run(name: str, folder: str | Path) -> Path:
    """Return the path of the `last` or `best` checkpoint in the folder of a run."""
    path = Path(folder) / CHECKPOINTS / f"{name}.ckpt"
    if not path.is_file():
        fit = "`python train.py fit`" + (" with --checkpoint.monitor val/loss" if name == "best" else "")
        raise CheckpointError(
            f"--ckpt_path {name} expects {path}, which does not exist. Run {fit} first with the same "
            "trainer.default_root_dir, or give the path of a checkpoint."
        )
    return path


def _read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint of stemsim without running any code in it."""
    if not Path(path).is_file():
        raise CheckpointError(f"No checkpoint at {path}. Give --ckpt_path last, or a file that `train.py fit` wrote.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the safe unpickler raises all kinds of errors on garbage
        reason = f"{type(error).__name__}: {str(error)[:200]}".splitlines()[0]
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely ({reason}). It is damaged, or contains more than "
            "tensors and primitives. Fit again."
        ) from error
    if not isinstance(checkpoint, dict) or "stems" not in checkpoint.get("hyper_parameters", {}):
        raise CheckpointError(f"{path} has no stem layout. Expected a checkpoint that `train.py fit` wrote.")
    return checkpoint


def main(args: ArgsType = None) -> StemsimCLI:
    """Run `train.py` with the arguments of the process, or with others.

    Returns:
        The command line object, with `trainer`, `model` and `datamodule`.

    Raises:
        StemsimError: If the user can correct the cause, and `args` are given; without them, the process prints the
            message and exits with status 2.
    """
    set_up_logging()
    _skip_launch_inputs()
    try:
        return StemsimCLI(args)
    except Exception as error:
        if (message := _message(error)) is None:
            raise
        if args is not None:
            raise error if isinstance(error, StemsimError) else ConfigError(message) from error
        Console(stderr=True).print("[red]error:[/red]", Text(message), soft_wrap=True, highlight=False)
        sys.exit(2)


def _message(error: Exception) -> str | None:
    """Return what the user can do about an error; None if it is a bug."""
    match error:
        case StemsimError():
            return str(error)
        case OSError():
            return system_message(error)
        case MisconfigurationException():
            return (
                f"Lightning cannot work with these settings of `trainer`: {error} Correct them, such as "
                "`--trainer.accelerator cpu` on a machine without a GPU."
            )
    if type(error).__module__.startswith("wandb."):  # which takes a second to import
        return (
            f"W&B: {error} Log in by `wandb login`, or keep the run on this machine: "
            "--trainer.logger.init_args.offline true, or WANDB_MODE=offline."
        )
    return None


def _skip_launch_inputs() -> None:
    """Let W&B skip its search for inputs of W&B Launch, which takes 1 s of imports and finds none in `train.py`."""
    stub: Any = ModuleType("wandb.sdk.launch.inputs.internal")
    stub.StagedLaunchInputs = type("StagedLaunchInputs", (), {"apply": lambda _self, _run: None})
    sys.modules.setdefault(stub.__name__, stub)


def set_up_logging() -> None:
    """Show progress of stemsim and all warnings, but not Lightning's advertisements."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("stemsim").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning 2.6 beside PyTorch 2.13
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # `stemsim embed` passes its own
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # it is replaced
