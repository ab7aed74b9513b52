"""Crops as functions of numbers: random words, and which stored crops are drawn."""
