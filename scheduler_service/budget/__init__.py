"""The account of one token budget: what fills it, what is reserved, used, reclaimed and shared."""
