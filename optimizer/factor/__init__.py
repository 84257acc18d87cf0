"""Factorisation: numerical methods that write a layer as cheaper ones, and what they need to know of a program.

Each method is a pure function on tensors; the passes decide where to apply it.
"""
