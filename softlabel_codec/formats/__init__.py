"""Label files of other projects, each in a module or package."""
