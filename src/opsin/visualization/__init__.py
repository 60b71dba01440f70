"""Arrays and numbers to images and charts."""
