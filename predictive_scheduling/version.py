"""The version of everything here; the package's metadata reads it too."""

VERSION = "0.1.0"
