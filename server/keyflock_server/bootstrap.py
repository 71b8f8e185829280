"""The only file that names concrete classes: settings in, a running server out."""
