"""Hypothesis without a clock and without a folder of its own: a busy machine is no failure."""

from hypothesis import settings

settings.register_profile("multicrop", deadline=None, database=None)
settings.load_profile("multicrop")
