"""What predictions tell, without torch: intervals, calibration, mistakes, duplicates, labels in doubt, comparisons."""
