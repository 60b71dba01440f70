"""Decoded images and computed features on disk."""
