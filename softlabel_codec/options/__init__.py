"""The options of labelling and training runs, for Python, JSON and the command line."""
