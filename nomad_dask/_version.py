"""The version of the package, where every module can import it without importing the package's root."""

__version__ = "0.1.0"
