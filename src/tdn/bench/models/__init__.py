"""Builders of whole models, one module a package; they run in the interpreter where that package is installed."""
