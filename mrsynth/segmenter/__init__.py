"""The benchmark's tumour segmenter."""
