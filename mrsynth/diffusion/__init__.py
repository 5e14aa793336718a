"""Noise levels, predictions and samplers: tensors only, no networks and no MRI."""
