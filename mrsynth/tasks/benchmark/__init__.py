"""`mrsynth benchmark` and `mrsynth compare`."""
