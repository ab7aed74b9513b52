"""What callers pass, and what the format allows."""
