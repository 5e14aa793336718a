"""`mrsynth benchmark --list` and `--describe`: what data sets there are and what each must look like. Without torch."""

from mrsynth.io.catalogue import dataset_facts, describe_dataset, list_datasets

__all__ = ["dataset_facts", "describe_dataset", "list_datasets"]
