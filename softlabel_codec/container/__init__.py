"""Conversion between blocks and a file: framing, metadata, index, keys, and the files themselves."""
