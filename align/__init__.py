"""Align a language model in stages, and prove what alignment did to it."""

__version__ = "0.1.0"
