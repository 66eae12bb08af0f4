"""Restores one picture by fitting a generator to it: the deep image prior (Ulyanov et al., 2018)."""
