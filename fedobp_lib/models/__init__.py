"""The two networks of the paper, and a model as one row of numbers."""
