"""Errors that a user can act on: each says what was expected, what came, and what to do."""

from __future__ import annotations


class TDNError(Exception):
    """Base class of every error raised for bad input; the command line prints it without a traceback."""


class DataError(TDNError):
    """Structures or labels that cannot be used as asked."""


class ConfigError(TDNError):
    """A configuration with unknown keys, wrong types or values out of range."""


class ModelFileError(TDNError):
    """A model or checkpoint file that is damaged, truncated or of an unknown format."""


class FactorTableError(TDNError):
    """A factor table that is missing or does not fit its couplings."""


class ExportError(TDNError):
    """An export that is not possible here, or that does not compute what the model computes."""
