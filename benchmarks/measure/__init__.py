"""What is measured: sizes, distances, speeds, the limit."""
