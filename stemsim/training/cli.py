"""The command line of `train.py`: Lightning's, with cross-validation and errors that a person can read."""

import logging
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from rich.console import Console

from stemsim.errors import CheckpointError, StemsimError
from stemsim.training.checkpoint import LastCheckpoint, check_checkpoint, check_checkpoint_stems
from stemsim.training.closed_form import ClosedFormCheck
from stemsim.training.data import TripletDataModule
from stemsim.training.module import StemSimilarityModule
from stemsim.training.results import PredictionWriter, ResultsReport
from stemsim.training.trainer import StemTrainer

__all__ = ["StemsimCLI", "main", "set_up_logging"]


class StemsimCLI(LightningCLI):
    """`fit`, `validate`, `test`, `predict`, `crossval` and `perspectives` on one configuration."""

    def __init__(self, args: ArgsType = None, *, run: bool = True) -> None:
        self._checkpoint: dict[str, Any] | None = None
        self.arguments = list(sys.argv[1:]) if args is None else args
        # Interpolations that refer to keys of the whole file also hold where the file is one part of a larger parser.
        set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
        super().__init__(
            StemSimilarityModule,
            TripletDataModule,
            trainer_class=StemTrainer,
            trainer_defaults={
                "callbacks": [LastCheckpoint(), ClosedFormCheck(), ResultsReport(), PredictionWriter()],
                "max_epochs": 10,
                "log_every_n_steps": 1,
                "accelerator": "cpu",
                "enable_model_summary": False,
                "enable_progress_bar": False,  # a full-batch fit is over before a bar is drawn
            },
            save_config_kwargs={"overwrite": True},
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
        """Return Lightning's four jobs and ours, with the arguments that the command line fills in itself."""
        ours = {"model", "datamodule"}
        return {**LightningCLI.subcommands(), "crossval": ours, "perspectives": ours}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give the model the stem layout of the separator."""
        parser.link_arguments("data.stems", "model.stems", compute_fn=list, apply_on="instantiate")

    def instantiate_classes(self) -> None:
        """Build model and data; an error of ours comes out as it is, not as one of the parser."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:  # what jsonargparse makes of any error in an optional class
            if isinstance(error.__cause__, StemsimError):
                raise error.__cause__ from None
            raise

    def after_instantiate_classes(self) -> None:
        """Compare the checkpoint with the model before hours of embedding, not after."""
        if self._checkpoint is not None:
            check_checkpoint_stems(self._checkpoint, self.model.stems)

    def _parse_ckpt_path(self) -> None:
        """Check the checkpoint before anything else is done, instead of letting it override the configuration."""
        settings = self.config[self.config.subcommand] if self.config.get("subcommand") else {}
        path = settings.get("ckpt_path")
        if not path:
            return
        if not Path(path).suffix and path in {"best", "last", "hpc"}:
            msg = f"--ckpt_path {path} means a fit in this very process. Give the path of `last.ckpt` that `fit` named."
            raise CheckpointError(msg)
        self._checkpoint = check_checkpoint(path)

    def before_instantiate_classes(self) -> None:
        """Tell W&B what kind of job this is, unless the user has."""
        if self.subcommand is not None and os.environ.get("WANDB_JOB_TYPE") in {None, *self.subcommands()}:
            os.environ["WANDB_JOB_TYPE"] = self.subcommand

    def before_crossval(self) -> None:
        """Keep the settings beside the results, as Lightning does for its own jobs."""
        self._keep_settings()

    def before_perspectives(self) -> None:
        """Keep the settings beside the results."""
        self._keep_settings()

    def _keep_settings(self) -> None:
        """Write `JOB.yaml` into the run's folder."""
        job = str(self.subcommand)
        folder = Path(self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        settings = self.config.get(job, self.config)
        self._parser(job).save(settings, folder / f"{job}.yaml", overwrite=True, multifile=False)

    def after_fit(self) -> None:
        """Say what to do next."""
        if not isinstance(self.arguments, Sequence):
            return
        given = [argument for argument in self.arguments if argument != "fit"]
        if "--ckpt_path" in given:  # this fit went on from another one
            del given[(at := given.index("--ckpt_path")) : at + 2]
        path = Path(self.trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        command = shlex.join(["python", "train.py", "test", *given, "--ckpt_path", str(path)])
        Console().print(f"Next: {command}", soft_wrap=True, highlight=False)


def main(args: ArgsType = None) -> StemsimCLI:
    """Run `train.py`.

    Args:
        args: Arguments as on the command line; None takes those of the process.

    Returns:
        The command line object, with `trainer`, `model` and `datamodule`.

    Raises:
        StemsimError: If something that the user can mend is wrong, and `args` are given; without them the process ends
            with the message and status 2.
    """
    set_up_logging()
    try:
        return StemsimCLI(args)
    except StemsimError as error:
        if args is not None:
            raise
        Console(stderr=True).print(f"[red]error:[/red] {error}", soft_wrap=True, highlight=False)
        sys.exit(2)


def set_up_logging() -> None:
    """Show our own progress and all warnings, and keep Lightning's advertisements off the terminal."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("stemsim").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning 2.6 beside PyTorch 2.13
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # `stemsim embed` passes its own
