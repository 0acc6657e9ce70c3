"""Gives each request its budget: at once by the price, or in a window with others."""
