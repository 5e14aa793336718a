"""`mrsynth train`."""
