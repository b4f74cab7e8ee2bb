"""Exact and low-rank canonical polyadic factors of Clebsch-Gordan couplings (float64 NumPy, no torch)."""
