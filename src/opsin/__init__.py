"""Opsin: train, explain and compare image classifiers from config files."""

__version__ = "0.1.0"
