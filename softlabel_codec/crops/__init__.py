"""Which stored crops are drawn."""
