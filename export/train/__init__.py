"""Training: recipes as data, and what carries them out with Lightning."""
