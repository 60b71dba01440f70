"""Order of the images, batches, and the cache on the device."""
