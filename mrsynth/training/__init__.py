"""How a method learns: examples, augmentation, the loop, scores while it runs."""
