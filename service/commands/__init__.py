"""The commands of `multicrop-service` that ask a running server."""
