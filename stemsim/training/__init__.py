"""Training with Lightning: data module, module, callbacks, trainer, and the command line of `train.py`."""

import gc
from typing import Final

from lightning_utilities.core.imports import RequirementCache

_NOT_NEEDED: Final = ("matplotlib", "torchvision", "transformers")


def _import_lightning() -> None:
    """Import Lightning in half of the time that `import lightning` takes.

    Lightning imports torchmetrics, which imports every package that one of its metrics could use: torchvision and
    transformers take 2 s, and we use none of those metrics. The garbage collector finds nothing in modules that have
    just been imported, but looks for it again and again.
    """
    collects, check = gc.isenabled(), RequirementCache._check_available  # noqa: SLF001 - it has no public switch

    def check_needed(requirement: RequirementCache) -> None:
        if str(requirement.requirement).startswith(_NOT_NEEDED):
            requirement.available, requirement.message = False, "not imported by stemsim.training"
        else:
            check(requirement)

    gc.disable()
    RequirementCache._check_available = check_needed  # type: ignore[method-assign]  # noqa: SLF001
    try:
        import torchmetrics  # noqa: F401
    finally:
        RequirementCache._check_available = check  # type: ignore[method-assign]  # noqa: SLF001
    import lightning.pytorch.cli  # noqa: F401

    gc.freeze()
    if collects:
        gc.enable()


_import_lightning()
