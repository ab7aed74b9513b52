"""Conversion between integer codes and the bytes of a block. Lossless, numpy only; compression and files are elsewhere."""
