"""Decoded images and cached features on disk."""
