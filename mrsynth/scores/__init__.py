"""What a synthesis is worth: metrics, named protocols, baselines, statistics."""
