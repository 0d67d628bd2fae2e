"""Data: sources on the host (`sources`, `prepare`) and batches made on the device (`batches`)."""
