"""Engines that run a potential: exports, and adapters to OpenMM, LAMMPS and others."""
