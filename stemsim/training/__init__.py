"""Lightning: the data module, the module, callbacks and the command line of `train.py`."""

from stemsim.pretrained.torchvision_repair import repair_torchvision

repair_torchvision()  # Lightning and torchmetrics import torchvision where it is installed
