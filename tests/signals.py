"""Signals that models tell apart, and that leave no way of treating them without a trace."""

import numpy as np

CLIPS = {
    "4.969 s": 219_136 / 44_100,
    "5 s": 5.0,
    "10 s": 10.0,
    "0.4 s": 0.4,
    "23 s": 23.0,
}
"""Lengths in seconds: the data set's segment, the paper's, CLAP's and MuQ's window, a hit, more than two windows."""


def make_signal(seed, seconds, rate, *, channels=None, level=0.4):
    """Return `(time,)`, or `(channels, time)`: a few decaying notes, pulses of noise, a little hiss, some clipping."""
    rng = np.random.default_rng(seed)
    shape = (channels or 1, round(seconds * rate))
    time = np.arange(shape[1]) / rate
    signal = 0.01 * rng.normal(size=shape)
    for _ in range(6):
        pitch, begin = 55.0 * 2.0 ** rng.uniform(0, 5), rng.uniform(0, 0.7 * seconds)
        envelope = np.exp(-3.0 * (time - begin).clip(0)) * (time >= begin)
        note = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 5) if pitch * k < rate / 2)
        signal += level * envelope * note * rng.uniform(0.5, 1.0, size=(shape[0], 1))
    signal += level * rng.normal(size=shape) * np.exp(-20.0 * (time * 2.0 % 1.0))
    return (signal if channels else signal[0]).astype(np.float32)
