"""Bias suites: what a model does differently when only the group changes."""
