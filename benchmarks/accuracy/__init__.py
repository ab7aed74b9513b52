"""The accuracy experiment: `experiment.py` runs it, `tables.py` makes the section of the report."""
