"""Rows in batches, and the one loop that trains every module on them."""
