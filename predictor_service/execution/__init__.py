"""On what graphs run: the execution provider, and the buffers on its device."""
