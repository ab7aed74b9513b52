"""The `slcodec` command line: parses, calls and prints; everything it does is a function elsewhere."""
