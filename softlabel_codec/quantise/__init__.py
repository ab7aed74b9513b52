"""Conversion between the teacher's floating-point numbers and the stored integer codes. Pure numpy, no bytes."""
