"""What a model has kept of its training data: exposure, extraction, membership, personal data."""
