"""Rows for every stage: reading, conversion, splits, and a generated world to start from.

Importing this package loads the standard library only; `datasets` and `pyarrow` are imported where
a source needs them.
"""

from align.data.formats import Kind
from align.data.sources import DataContext, Rows, load_rows

__all__ = ["DataContext", "Kind", "Rows", "load_rows"]
