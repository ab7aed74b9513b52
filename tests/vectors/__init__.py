"""The test vectors of the specification (spec/vectors), and how they were made."""
