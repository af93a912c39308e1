"""Twins that run on libraries inside torch's CPU build."""
