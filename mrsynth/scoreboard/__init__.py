"""What a benchmark found, for people: means and tests, tables, plots and the report."""
