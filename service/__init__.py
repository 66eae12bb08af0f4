"""Serves the bundles of a repository over HTTP."""
