"""Training with Lightning: data module, module, callbacks, trainer, and the command line of `train.py`."""

from lightning_utilities.core.imports import RequirementCache


def _import_torchmetrics() -> None:
    """Import torchmetrics, which Lightning imports, without the packages of metrics that are not used here.

    It imports whatever any of its metrics could use: torchvision and transformers alone take 2 s, where installed.
    """
    check = RequirementCache._check_available  # noqa: SLF001 - there is no public switch

    def check_needed(requirement: RequirementCache) -> None:
        if str(requirement.requirement).startswith(("matplotlib", "torchvision", "transformers")):
            requirement.available, requirement.message = False, "not imported by stemsim.training"
        else:
            check(requirement)

    RequirementCache._check_available = check_needed  # type: ignore[assignment,method-assign]  # noqa: SLF001
    try:
        import torchmetrics  # noqa: F401
    finally:
        RequirementCache._check_available = check  # type: ignore[method-assign]  # noqa: SLF001


_import_torchmetrics()
