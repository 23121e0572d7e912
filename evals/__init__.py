"""Evaluation of every stage on identical items, with intervals and paired tests."""
