"""Checks of arguments, and the limits of the format."""
