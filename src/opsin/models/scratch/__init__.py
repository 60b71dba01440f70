"""The networks of the lectures, trained from scratch."""
