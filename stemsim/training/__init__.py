"""Lightning: the data module, the module, callbacks and the command line of `train.py`."""
