"""The networks: one family to a file. They know nothing of downloads, preprocessing or export."""
