"""Pretrained models: registry, location, download, and reading without running code."""

from stemsim.pretrained.folder import is_offline, locate, locate_file, pretrained_folder
from stemsim.pretrained.registry import PRETRAINED, Pretrained

__all__ = ["PRETRAINED", "Pretrained", "is_offline", "locate", "locate_file", "pretrained_folder"]
