"""Readers, label keys, reference energies, splits, checks before training, and batches."""
