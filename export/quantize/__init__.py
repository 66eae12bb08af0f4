"""The command `quantize`: from a float bundle to one of lower precision, the next version."""
