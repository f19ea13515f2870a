"""Commits, failures and the tables that are built from them."""
