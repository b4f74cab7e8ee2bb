"""Simulations with a trained potential: batched relaxation, molecular dynamics, and properties of minima."""
