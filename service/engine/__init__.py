"""Rows of pixels to rows of scores, shared between requests. Arrays only: no HTTP, no images, no labels."""
