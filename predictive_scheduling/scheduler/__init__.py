"""Generated stubs of the scheduler's API."""
