"""Coverage-guided fuzzing: what a target does is in `targets.py`, how it is run in `run.py`."""
