"""Quantization: grids of representable numbers, ranges from calibration, rounding, and where it pays."""
