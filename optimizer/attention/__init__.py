"""Approximations of attention as pure functions: each with its paper, its formula, and what it costs."""
