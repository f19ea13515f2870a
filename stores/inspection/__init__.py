"""What info, status, verify, query and show print about a store."""
