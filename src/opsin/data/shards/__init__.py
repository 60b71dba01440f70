"""Images in shards: files of some megabytes, in a local folder or a bucket, read as a stream."""
