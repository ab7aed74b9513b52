"""From results to the report and its figures."""
