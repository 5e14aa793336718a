"""Tasks join files, methods and reports; one module per command."""
