"""Export: a checkpoint becomes an integer model, and that a bundle for one runtime."""
