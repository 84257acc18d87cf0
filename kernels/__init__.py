"""Kernels, one per file: a custom operator, its CPU reference and its Triton kernel. None yet."""
