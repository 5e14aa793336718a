"""`mrsynth weights`."""
