"""The `slcodec` command line: parses arguments, calls functions of the package, and prints."""
