"""A plug-in package to begin from: its names, and its files."""
