"""The demonstration: a map of the documentation that every Python installation has."""
