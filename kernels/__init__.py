"""Kernels, one per file: a custom operator whose CPU implementation is the reference, and its Triton kernel.

`ahead_of_time` compiles any of them without a GPU and counts what the machine code holds.
"""
