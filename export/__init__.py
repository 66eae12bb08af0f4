"""Checkpoints in, verified bundles out: build, load, fold, freeze to ONNX, compare with torch, publish."""
