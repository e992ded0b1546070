"""Training with Lightning: data module, module, callbacks, trainer, and the command line of `train.py`."""

import gc
import sys
from types import ModuleType
from typing import Any, Final

from lightning_utilities.core.imports import RequirementCache

_NOT_NEEDED: Final = ("matplotlib", "torchvision", "transformers")


def _import_lightning() -> None:
    """Import Lightning in half of the time that `import lightning` takes.

    It imports torchmetrics, which imports all packages that any of its metrics could use: torchvision and transformers
    alone take 2 s, and no metric of stemsim uses them. The garbage collector finds nothing in modules that have just
    been imported, but traverses them again and again.
    """
    check = RequirementCache._check_available  # noqa: SLF001 - it has no public switch

    def check_needed(requirement: RequirementCache) -> None:
        if str(requirement.requirement).startswith(_NOT_NEEDED):
            requirement.available, requirement.message = False, "not imported by stemsim.training"
        else:
            check(requirement)

    collects = gc.isenabled()
    gc.disable()
    RequirementCache._check_available = check_needed  # type: ignore[assignment,method-assign]  # noqa: SLF001
    try:
        import torchmetrics  # noqa: F401
    finally:
        RequirementCache._check_available = check  # type: ignore[method-assign]  # noqa: SLF001
    import lightning.pytorch.cli  # noqa: F401

    gc.freeze()
    if collects:
        gc.enable()


def _skip_launch_inputs() -> None:
    """Let W&B skip its search for inputs of W&B Launch, which imports for 1 s and can find none in this process."""
    stub: Any = ModuleType("wandb.sdk.launch.inputs.internal")
    stub.StagedLaunchInputs = type("StagedLaunchInputs", (), {"apply": lambda _self, _run: None})
    sys.modules.setdefault(stub.__name__, stub)


_import_lightning()
_skip_launch_inputs()
