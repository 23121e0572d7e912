"""Everything that turns a response into a score, and the audit of that score."""
