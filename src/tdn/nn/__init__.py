"""Equivariant layers. Features are `[(lmax + 1)², atoms, channels]`: component first, in e3nn's order and basis."""
