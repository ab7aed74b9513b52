"""Image files: finding them, decoding them, and cutting crops out of them."""
