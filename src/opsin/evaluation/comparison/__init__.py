"""Leaderboard, paired tests and comparison page of several runs."""
