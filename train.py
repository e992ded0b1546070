#!/usr/bin/env python
"""Learn how much each stem counts: `python train.py fit|validate|test|predict|crossval -c configs/demo.yaml`."""

import gc

gc.disable()  # importing makes a million objects and no garbage: collections are a fifth of the start

from stemsim.training.cli import main  # noqa: E402

if __name__ == "__main__":
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)  # for W&B, LanceDB and matplotlib, which are imported when they are used
    gc.enable()
    main()
