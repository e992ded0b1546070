"""Synthetic songs, so that everything can be tried on a new machine without any data."""

from stemsim.demo.songs import SyntheticSongs, synthesise_song

__all__ = ["SyntheticSongs", "synthesise_song"]
