"""What a run is asked to do: the options of labelling and of training, for Python, JSON and the command line."""
