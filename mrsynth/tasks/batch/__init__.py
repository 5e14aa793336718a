"""`mrsynth batch`."""
