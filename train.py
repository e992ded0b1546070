#!/usr/bin/env python
"""Learn how much each stem counts: `python train.py fit|validate|test|predict|crossval -c configs/demo.yaml`."""

from stemsim.training.cli import main

if __name__ == "__main__":
    main()
