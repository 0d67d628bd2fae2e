"""Data: one file for each data set, streams of images that are too many for memory, and batches on the device."""
