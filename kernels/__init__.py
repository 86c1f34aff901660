"""Arrays in, arrays out: the operations that a layer is made of, each with a reference in plain MLX ops."""
