"""Other people's label files, a module or a package each."""
