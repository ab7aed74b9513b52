"""Students of CIFAR-100 by a published recipe: all views of each image stored once, beside the teacher in every step."""
