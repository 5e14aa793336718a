"""A subject's scans as numbers: volumes and grids, from a file's units to u and back."""
