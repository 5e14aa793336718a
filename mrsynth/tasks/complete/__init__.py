"""`mrsynth complete`."""
