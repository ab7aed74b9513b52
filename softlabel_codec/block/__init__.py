"""Between integer codes and the bytes of a block. Lossless, pure numpy; knows nothing of compression or files."""
