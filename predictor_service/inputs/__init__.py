"""What goes into a graph: queries as tensors, rows of like length together."""
