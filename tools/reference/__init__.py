"""Pages that are made from the code itself: settings, API, and the picture of how it hangs together."""
