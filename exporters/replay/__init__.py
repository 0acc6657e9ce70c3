"""Replays measured curves: scores policies, simulates traffic, reports."""
