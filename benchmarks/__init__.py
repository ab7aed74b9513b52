"""What is measured, and the reports that are made of it: `python -m benchmarks`, `python -m benchmarks.reliability`."""
