"""Evaluation: tasks, scorers and what they say of a model."""
