"""Graph to graph (derivatives, batching, rewrites), graph to kernels, kernels to loops."""
