"""Between the teacher's floating-point numbers and the integer codes that are stored. Pure numpy, no bytes."""
