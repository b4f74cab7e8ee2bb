"""Networks of atomic energies, and the potential that makes energies, forces and stress of them."""
