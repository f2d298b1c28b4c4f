"""Other systems' programs as Tilewright's: `jax` turns jaxprs into traced functions."""
