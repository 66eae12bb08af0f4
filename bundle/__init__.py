"""The contract between export and service: what a bundle holds, and how an image becomes its rows and its answer."""
