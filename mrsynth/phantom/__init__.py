"""Made-up brains: MR signal equations on tissue maps."""
