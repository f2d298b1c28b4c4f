"""Every op, one definition each; `catalogue.ALL` lists them with their examples."""
