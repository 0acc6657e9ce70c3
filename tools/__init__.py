"""Programs that make what is committed."""
