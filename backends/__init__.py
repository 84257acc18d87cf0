"""Runtimes: one file per backend, each with an instance named ``BACKEND``; the file name is its name.

A backend turns a `Program` into a callable on flat tensors (`compile`), writes files that run without Tersor
(`save`), and says what it would reject or run slowly (`lint`). The protocol is in `tersor.backend`. Modules whose
name starts with an underscore serve several backends.
"""
