"""Disk and network: the only code that touches either, apart from tasks."""
